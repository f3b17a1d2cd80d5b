"""Predict with a trained model on the user's texts."""
