"""Training of a LoRA on a frozen Z-Image transformer."""
