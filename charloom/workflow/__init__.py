"""The stages that load a model: each knows the store key of its results, and how to make many of them in one go.

Keys are computed without torch, so that a job whose result is stored ends in milliseconds; torch is imported
by the functions that make something. Nothing here knows of Snakemake or of the configuration.
"""
