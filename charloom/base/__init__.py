"""Base models as files: which bytes they are, where they come from, whether they are whole. No torch."""
