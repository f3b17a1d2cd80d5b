"""Start, agree and end together with the other processes of a run, and report waits for them."""

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

# Seconds until a wait is reported first, and between later reports.
FIRST_NOTICE, NEXT_NOTICE = 10, 60
CURE = "start all of them, or unset WORLD_SIZE, RANK, LOCAL_RANK and MASTER_ADDR to run one process"


@contextmanager
def waiting_for_processes() -> Iterator[None]:
    """Report a wait for other processes while a process group starts, and let signals end it.

    A WORLD_SIZE that an earlier job left in the environment makes a single process wait in vain. Python handles signals
    in the main thread, which the wait blocks in C++ until its timeout: here, a thread receives them.
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
            raise ValueError(f"cannot connect {_processes()} ({reason}): {CURE}") from error
        finally:
            signal.set_wakeup_fd(before)
            receiver.close()
            thread.join()


def _processes() -> str:
    size, address, port = (os.environ.get(name, "?") for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    return f"{size} processes at {address}:{port}, the WORLD_SIZE in the environment"


def _report(signals: socket.socket) -> None:
    """Log the wait from time to time until the other end closes; exit the process on a signal."""
    patience = FIRST_NOTICE
    while not select.select([signals], [], [], patience)[0]:
        logger.warning("process %s is waiting for %s: %s", os.environ.get("RANK", "?"), _processes(), CURE)
        patience = NEXT_NOTICE
    for number in signals.recv(1):
        os._exit(exit_code(number))


def on_first_process(find: Callable[[], T]) -> T:
    """Call ``find`` in the first process and return its result in all.

    If each process looked at a folder, it could change in between. A UserError is raised in all processes.
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
    """Destroy the process group at the end of a run: otherwise a process may abort while others communicate.

    After an error, leave it, as the error may be in one process, and the others would wait for it.
    """
    try:
        yield
    except SystemExit:
        if dist.is_initialized():
            dist.destroy_process_group()
        raise
    if dist.is_initialized():
        dist.destroy_process_group()
