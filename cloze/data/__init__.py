"""Token ids -> examples -> batches."""
