"""From shots and pictures to a checked data set. Imports no torch."""
