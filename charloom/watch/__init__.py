"""The live page of ``charloom watch``: the present state of a run, served on this machine only."""
