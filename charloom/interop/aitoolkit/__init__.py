"""Reads job files of ai-toolkit."""
