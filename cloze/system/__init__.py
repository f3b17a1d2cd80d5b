"""Processes and files: signals, output, locks, folders that are complete or absent."""
