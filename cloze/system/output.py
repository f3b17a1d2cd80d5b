"""Keep a run alive whose output goes away: a closed pipe, a full disk under the log, a terminal that is gone.

Imports nothing heavy, so that scripts can call it first.
"""

import errno
import io
import os
import sys
from contextlib import suppress

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class OutputFile(io.FileIO):
    """Write what stdout or stderr prints; drop what cannot be written, with one line on the other of the two.

    A log on a full disk continues once there is room. After other errors, /dev/null takes the file's place, also for
    libraries in C and for child processes, which may end at an error, too.
    """

    def __init__(self, name: str, descriptor: int, other: int):
        super().__init__(descriptor, "wb", closefd=False)
        self.name, self.other, self.reported = name, other, False

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if not self.reported:
                self.reported = True
                report = f"OUTPUT: {self.name} cannot be written to ({error.strerror}): continuing without it\n"
                # Not through the stream, which may be in the middle of a write of its own.
                with suppress(OSError):
                    os.write(self.other, report.encode())
            if error.errno not in DISK_FULL:
                with open(os.devnull, "wb") as null:
                    os.dup2(null.fileno(), self.fileno())
            return len(data)


def tolerate_output_errors() -> None:
    """Replace stdout and stderr, so that no print ends the process: neither lost output nor unknown characters do."""
    # The next file that is opened would take a closed descriptor, and libraries would print into it.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = _tolerant(sys.stdout, OutputFile("stdout", 1, other=2))
    sys.stderr = _tolerant(sys.stderr, OutputFile("stderr", 2, other=1))


def format_lines(lines: dict[str, str]) -> str:
    """Return names and texts as aligned lines."""
    width = max(map(len, lines))
    return "\n".join(f"  {name[0].upper() + name[1:]:<{width}}  {text}" for name, text in lines.items())


def _tolerant(stream: io.TextIOWrapper | None, file: OutputFile) -> io.TextIOWrapper:
    """Return a stream with the settings of ``stream``, which is None if Python found it closed, over another file."""
    unbuffered = stream is not None and stream.write_through
    return io.TextIOWrapper(
        file if unbuffered else io.BufferedWriter(file),
        encoding=stream and stream.encoding,
        errors="backslashreplace",
        line_buffering=stream is not None and stream.line_buffering,
        write_through=unbuffered,
    )
