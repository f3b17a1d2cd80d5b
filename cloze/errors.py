"""Define UserError, and nothing else."""


class UserError(Exception):
    """End a script with exit code 2 and one line on stderr that says what happened, where, and what to do."""
