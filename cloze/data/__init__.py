"""Make examples of token ids, and batches of examples."""
