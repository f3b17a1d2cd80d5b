"""Predict with a trained model, for texts of the user's own."""
