"""Fine-tune several models and compare them."""
