"""Turn token ids into examples, and examples into batches."""
