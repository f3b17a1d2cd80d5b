"""Load and build models, add tokens to their vocabulary, compute logits at masked positions only, count FLOPs."""
