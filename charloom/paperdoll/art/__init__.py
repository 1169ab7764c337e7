"""The drawing code of the paper doll: one module per part of the picture."""
