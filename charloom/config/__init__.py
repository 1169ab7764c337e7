"""What the user writes: YAML files, checked and resolved into plain objects. Opens no image, imports no torch."""
