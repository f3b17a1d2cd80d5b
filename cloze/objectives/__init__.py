"""What is predicted: losses and metrics."""
