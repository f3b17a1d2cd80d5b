"""Handle the signals that end a run.

It imports nothing heavy: scripts call it before their imports.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

# Sent by batch systems before they end a job, by Ctrl-C, and by a terminal that is closed.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)

# Exit code for "run the same command again": EX_TEMPFAIL of sysexits.h.
RUN_AGAIN = 75


def exit_code(number: int) -> int:
    """Return the exit code of a process that this signal ends."""
    return 128 + signal.SIGINT if number == signal.SIGINT else RUN_AGAIN


def exit_while_importing(number: int, frame: FrameType | None) -> None:
    """Exit on a signal during the imports of a script, when there is nothing to save or close.

    An exception, as in exit_immediately, would pass through the library that is being imported, which may swallow it by
    a bare ``except`` or report a failed import.
    """
    os._exit(exit_code(number))


def install_handler(handler: Callable[[int, FrameType | None], None]) -> dict[int, Callable | int | None]:
    """Install the handler for SIGNALS and return the replaced handlers; under nohup, SIGHUP stays ignored."""
    numbers = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in numbers}


@contextmanager
def handling_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Install the handler for SIGNALS, and restore the earlier handlers at the end.

    Where exit_while_importing was installed, signals are ignored instead: only the exit of Python follows, which takes
    a while and must keep its exit code.
    """
    before = install_handler(handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, signal.SIG_IGN if earlier is exit_while_importing else earlier)


def ignore_signals(numbers: Iterable[int] = SIGNALS) -> None:
    """Ignore the signals."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def ignore_signals_in_worker(worker: int) -> None:
    """Ignore signals in a data-loader worker: batch systems signal all processes, but the parent needs batches."""
    ignore_signals()


def exit_immediately(number: int, frame: FrameType | None) -> None:
    """Exit on a signal when there is nothing to save."""
    sys.exit(exit_code(number))
