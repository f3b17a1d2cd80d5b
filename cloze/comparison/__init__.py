"""Several models fine-tuned and compared."""
