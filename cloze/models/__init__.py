"""Load or build models, resize their vocabulary, compute logits at masked positions only, count operations."""
