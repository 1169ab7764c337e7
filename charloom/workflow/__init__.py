"""What the rules do: settings slices, store keys, and the stages that load a model.

Keys are computed without torch, so that a job whose result is stored ends in milliseconds; only the functions that
make something import torch. Independent of Snakemake.
"""
