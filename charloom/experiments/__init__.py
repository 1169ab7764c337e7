"""Experiments on the paper-doll world: tests of advice about training, measured against a known truth."""
