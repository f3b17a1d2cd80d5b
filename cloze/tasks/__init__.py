"""Define what each script trains, a task a module."""
