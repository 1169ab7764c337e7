"""Faster plans: parts of Snakemake replaced by ones that do the same with less work. Knows nothing of characters."""
