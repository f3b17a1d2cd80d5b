"""Write what a user reads at the end: summary, curves, model card."""
