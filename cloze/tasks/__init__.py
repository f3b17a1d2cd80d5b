"""Define the task of each script, one per module."""
