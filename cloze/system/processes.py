"""Start, agree and end together with the other processes of a run, and say which of them are waited for."""

import logging
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from cloze.errors import UserError
from cloze.system.signals import exit_code

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds until a line says what is waited for, and until it says so again.
FIRST_NOTICE, NEXT_NOTICE = 10, 60
CURE = "start all of them, or unset WORLD_SIZE, RANK, LOCAL_RANK and MASTER_ADDR to run one alone"


@contextmanager
def waiting_for_processes() -> Iterator[None]:
    """Say which processes are waited for while a process group starts, and let signals end that wait.

    A WORLD_SIZE that an earlier job left in the environment makes a single process wait for others that never come.
    Python's handlers of signals run in the main thread, which the wait keeps in C++ until it times out: here, a thread
    gets them.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) <= 1:
        yield
        return
    signals, receiver = socket.socketpair()
    with signals, receiver:
        receiver.setblocking(False)
        before = signal.set_wakeup_fd(receiver.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(target=_report, args=(signals,), daemon=True)
        thread.start()
        try:
            yield
        except dist.DistError as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"the {_processes()} have not found each other ({reason}): {CURE}") from error
        finally:
            signal.set_wakeup_fd(before)
            receiver.close()
            thread.join()


def _processes() -> str:
    size, address, port = (os.environ.get(name, "?") for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    return f"{size} processes that meet at {address}:{port}, as WORLD_SIZE in the environment says,"


def _report(signals: socket.socket) -> None:
    """Log what is waited for from time to time, until the other end closes; a signal ends the process."""
    patience = FIRST_NOTICE
    while not select.select([signals], [], [], patience)[0]:
        logger.warning(
            "WAITING: as process %s for the %s to start: %s", os.environ.get("RANK", "?"), _processes(), CURE
        )
        patience = NEXT_NOTICE
    for number in signals.recv(1):
        os._exit(exit_code(number))


def on_first_process(find: Callable[[], T]) -> T:
    """Return in all processes what the first one finds: others would look at a folder that changes meanwhile.

    A UserError of the first is raised in all.
    """
    found: list = [None]
    if PartialState().is_main_process:
        try:
            found = [find()]
        except UserError as error:
            found = [error]
    (result,) = broadcast_object_list(found)
    if isinstance(result, UserError):
        raise result
    return result


@contextmanager
def destroying_process_group() -> Iterator[None]:
    """Destroy the process group where all processes end: else one may abort while others still talk.

    Not after an error, which may be of one process, for which the others would wait.
    """
    try:
        yield
    except SystemExit:
        if dist.is_initialized():
            dist.destroy_process_group()
        raise
    if dist.is_initialized():
        dist.destroy_process_group()
