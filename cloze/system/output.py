"""Keep a run alive when its output is lost: a closed pipe, a full disk under the log, a closed terminal.

It imports nothing heavy: scripts call it before their imports.
"""

import errno
import io
import os
import sys
from contextlib import suppress
from typing import TextIO

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class OutputFile(io.FileIO):
    """Write stdout or stderr; drop what cannot be written, and warn once on the other of the two.

    A log on a full disk continues once there is space. After other errors, /dev/null replaces the file, also for C
    libraries and child processes, which could fail as well.
    """

    def __init__(self, name: str, descriptor: int, other: int):
        super().__init__(descriptor, "wb", closefd=False)
        self.name, self.other, self.reported = name, other, False

    def write(self, data) -> int:
        """Write bytes, or drop them after an error; return their number in both cases."""
        try:
            return super().write(data)
        except OSError as error:
            if not self.reported:
                self.reported = True
                report = f"warning: cannot write to {self.name} ({error.strerror}): continuing without it\n"
                # Not through the other stream, which may be in the middle of a write.
                with suppress(OSError):
                    os.write(self.other, report.encode())
            if error.errno not in DISK_FULL:
                with open(os.devnull, "wb") as null:
                    os.dup2(null.fileno(), self.fileno())
            return len(data)


def tolerate_output_errors() -> None:
    """Replace stdout and stderr by streams that survive lost output and characters they cannot encode."""
    # Open descriptors 0 to 2 that are closed: libraries would print into the next file that gets one.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = _tolerant(sys.stdout, OutputFile("stdout", 1, other=2))
    sys.stderr = _tolerant(sys.stderr, OutputFile("stderr", 2, other=1))


def format_lines(lines: dict[str, str]) -> str:
    """Return names and texts as lines in two aligned columns."""
    width = max(map(len, lines))
    return "\n".join(f"  {name[0].upper() + name[1:]:<{width}}  {text}" for name, text in lines.items())


def _tolerant(stream: TextIO | None, file: OutputFile) -> io.TextIOWrapper:
    """Return a stream over a file with the settings of ``stream``, which is None if Python found it closed."""
    unbuffered = isinstance(stream, io.TextIOWrapper) and stream.write_through
    return io.TextIOWrapper(
        file if unbuffered else io.BufferedWriter(file),
        encoding=None if stream is None else stream.encoding,
        errors="backslashreplace",
        line_buffering=stream is not None and bool(stream.line_buffering),
        write_through=unbuffered,
    )
