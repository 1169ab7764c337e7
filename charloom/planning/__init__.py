"""Functions of Snakemake replaced by faster ones that give the same plans, and the order in which ready jobs start.

Knows nothing of characters or configuration; :mod:`charloom.planning.running` alone knows some rules by name.
"""
