"""Job files of ai-toolkit."""
