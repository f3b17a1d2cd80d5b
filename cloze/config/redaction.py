"""Tokens of the Hub and of other services, kept out of logs and error lines."""

import logging
import os
import re
from collections.abc import Iterable, Sequence

# Those of the Hub are told by their looks, too, were they given in a way that is not thought of here.
HUB_TOKEN = re.compile(r"\bhf_\w{16,}")
SHORTEST = 8


def find_secrets(argv: Sequence[str]) -> set[str]:
    """The values of flags and of variables of the environment whose names end with token or key."""
    secrets = {value for name, value in os.environ.items() if name.upper().endswith(("TOKEN", "API_KEY"))}
    for argument, following in zip(argv, [*argv[1:], ""], strict=False):
        flag, equals, value = argument.partition("=")
        if flag.startswith("--") and flag.endswith("token"):
            secrets.add(value if equals else following)
    # Switched on or off, as by --use_auth_token true, or no secret at all.
    return {secret for secret in secrets if len(secret) >= SHORTEST}


def redact(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return HUB_TOKEN.sub("***", text)


class SecretFormatter(logging.Formatter):
    """Writes messages without the secrets, and names of files that are not UTF-8 escaped."""

    def __init__(self, secrets: Iterable[str]):
        super().__init__()
        self.secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record), self.secrets).encode(errors="backslashreplace").decode()
