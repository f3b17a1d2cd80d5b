"""Redact tokens of the Hub and of other services in logs and error lines."""

import logging
import os
import re
from collections.abc import Iterable, Sequence

# Tokens of the Hub are also found by their form, in case they were given in another way than find_secrets knows.
HUB_TOKEN = re.compile(r"\bhf_\w{16,}")
MIN_SECRET_CHARS = 8


def find_secrets(argv: Sequence[str]) -> set[str]:
    """Return the values of flags and of environment variables whose names end with token or key."""
    secrets = {value for name, value in os.environ.items() if name.upper().endswith(("TOKEN", "API_KEY"))}
    for argument, following in zip(argv, [*argv[1:], ""], strict=False):
        flag, equals, value = argument.partition("=")
        if flag.startswith("--") and flag.endswith("token"):
            secrets.add(value if equals else following)
    # Switched on or off, as by --use_auth_token true, or no secret at all.
    return {secret for secret in secrets if len(secret) >= MIN_SECRET_CHARS}


def redact(text: str, secrets: Iterable[str]) -> str:
    """Replace secrets and tokens of the Hub in a text by ***."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return HUB_TOKEN.sub("***", text)


class RedactingFormatter(logging.Formatter):
    """Format messages, with "warning: " in front of warnings; redact secrets and escape what is not UTF-8."""

    def __init__(self, secrets: Iterable[str]):
        super().__init__()
        self.secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return redact(level + super().format(record), self.secrets).encode(errors="backslashreplace").decode()
