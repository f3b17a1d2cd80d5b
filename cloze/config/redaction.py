"""Redact tokens of the Hub and other services in logs and error messages."""

import logging
import os
import re
from collections.abc import Iterable, Sequence

# Finds tokens of the Hub that find_secrets does not know.
HUB_TOKEN = re.compile(r"\bhf_\w{16,}")
MIN_SECRET_CHARS = 8


def find_secrets(argv: Sequence[str]) -> set[str]:
    """Return the values of flags and of environment variables whose names end with token or key."""
    secrets = {value for name, value in os.environ.items() if name.upper().endswith(("TOKEN", "API_KEY"))}
    for argument, following in zip(argv, [*argv[1:], ""], strict=False):
        flag, equals, value = argument.partition("=")
        if flag.startswith("--") and flag.endswith("token"):
            secrets.add(value if equals else following)
    # Shorter values are not secrets, such as --use_auth_token true.
    return {secret for secret in secrets if len(secret) >= MIN_SECRET_CHARS}


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return the text with secrets and tokens of the Hub replaced by ***."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return HUB_TOKEN.sub("***", text)


class RedactingFormatter(logging.Formatter):
    """Prefix warnings with "warning: ", redact secrets, and escape characters that UTF-8 cannot encode."""

    def __init__(self, secrets: Iterable[str]):
        super().__init__()
        self.secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        # The package logs at level ERROR only what all processes have to report; the run continues.
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        return redact(prefix + super().format(record), self.secrets).encode(errors="backslashreplace").decode()
