"""UserError, and nothing else."""


class UserError(Exception):
    """A mistake of the user's: it ends the script with one line that says what, where and the cure, and exit code 2."""
