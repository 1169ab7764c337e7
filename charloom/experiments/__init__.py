"""Experiments on the paper-doll world: advice about training put to the test, and the truth to measure it by."""
