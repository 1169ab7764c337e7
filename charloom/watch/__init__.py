"""The live page of ``charloom watch``: what a run does now, served on this machine alone."""
