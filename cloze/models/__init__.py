"""Models: loaded or built, their vocabulary, logits at masked positions only."""
