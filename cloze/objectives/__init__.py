"""Define what is predicted: losses, metrics, and the interface of a task."""
