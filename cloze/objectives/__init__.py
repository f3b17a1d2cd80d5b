"""Define objectives, with their losses and metrics, and the interface of a task."""
