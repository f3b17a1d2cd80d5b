"""What a trained model says of texts of the user's own."""
