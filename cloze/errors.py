"""Define the error that a script reports in one line."""


class UserError(Exception):
    """Report a problem that the user can solve: what happened, where, and what to do.

    A script ends with exit code 2 and this message in one line on stderr.
    """
