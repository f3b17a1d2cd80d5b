"""Handle the signals that end a run.

Imports nothing heavy, so that scripts can call it first.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

# What batch systems send ahead of the end, Ctrl-C, and what a terminal sends that is closed.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)

# "Run me again": EX_TEMPFAIL of sysexits.h.
RUN_AGAIN = 75


def exit_code(number: int) -> int:
    """Return the exit code of a process that this signal has ended."""
    return 128 + signal.SIGINT if number == signal.SIGINT else RUN_AGAIN


def exit_while_importing(number: int, frame: FrameType | None) -> None:
    """Exit from a signal in the first seconds of a script, in which nothing is there yet to be saved or closed.

    An exception, as in exit_immediately, would pass through whatever is being imported: libraries swallow it by a bare
    ``except``, or report the import as failed.
    """
    os._exit(exit_code(number))


def install_handler(handler: Callable[[int, FrameType | None], None]) -> dict[int, Callable | int | None]:
    """Install the handler for SIGNALS and return those it replaces; under nohup, SIGHUP stays ignored."""
    numbers = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in numbers}


@contextmanager
def handling_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Install the handler for SIGNALS, and put back those from before at the end.

    In place of exit_while_importing, signals are then ignored: nothing follows but the end of Python, which takes a
    while and keeps its exit code.
    """
    before = install_handler(handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, signal.SIG_IGN if earlier is exit_while_importing else earlier)


def ignore_signals(numbers: Iterable[int] = SIGNALS) -> None:
    """Ignore the signals from now on."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def ignore_signals_in_worker(worker: int) -> None:
    """Ignore signals in a data-loader worker: batch systems signal all processes, and the parent needs its batches."""
    ignore_signals()


def exit_immediately(number: int, frame: FrameType | None) -> None:
    """Exit from a signal while there is nothing to save."""
    sys.exit(exit_code(number))
