"""What each script trains, a task a module."""
