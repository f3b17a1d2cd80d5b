"""Lock files: let one run write to an output_dir, and say what a run waits for."""

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path

import psutil
from filelock import AcquireReturnProxy, FileLock, Timeout

from cloze.errors import UserError
from cloze.system import processes
from cloze.system.processes import on_first_process

logger = logging.getLogger(__name__)

# In output_dir. The Trainer keeps names with this beginning from the Hub.
RUN_LOCK = "_run.lock"
# Seconds in which a dry run, or a run that ends, frees the lock; and in which a server frees that of a machine that has
# died: the lease of Linux' NFSv4 is 90.
MOMENT, LEASE = 1, 120
# What file systems without locks say: Lustre mounted without -o flock, NFS without its lock daemon, some in user space.
UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def acquire(lock: FileLock, what: str) -> AcquireReturnProxy:
    """Acquire a lock, however long it takes; log from time to time what is waited for."""
    patience = processes.FIRST_NOTICE
    while not _is_acquired(lock, patience):
        logger.warning("WAITING: for %s: %s is held by %s", what, lock.lock_file, _describe(_read_holder(lock)))
        patience = processes.NEXT_NOTICE
    _record_holder(lock)
    return AcquireReturnProxy(lock)


@contextmanager
def lock_output_dir(output_dir: str, *, dry_run: bool, prepare_only: bool) -> Iterator[None]:
    """Keep other runs out of output_dir; raise UserError where one is there.

    All that write there take the lock: training, and --do_eval or --do_predict alone, as two would replace each other's
    results. --prepare_only writes to the cache alone, and --dry_run leaves nothing behind: it warns.

    The first process holds it for all. The kernel frees it when that has died, however it did; forked children, such as
    data-loader workers that outlive it for some seconds, do not have it, as filelock closes it in them. The file stays,
    empty: to delete it would leave two files to processes that open it at that moment.
    """
    # A soft lock, which would take the place of one that the file system does not know, outlives a killed node.
    lock = FileLock(Path(output_dir) / RUN_LOCK, fallback_to_soft=False)
    if prepare_only:
        yield
        return
    if dry_run:
        with without_new_folders(output_dir):
            on_first_process(partial(_warn_if_held, lock))
            yield
        return
    on_first_process(partial(_take, lock))
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # the user may have deleted it
                os.truncate(lock.lock_file, 0)
            lock.release()


@contextmanager
def without_new_folders(path: str) -> Iterator[None]:
    """Remove the folders that are made on the way to ``path``, if they are empty."""
    folders = [Path(path).absolute(), *Path(path).absolute().parents]
    new = [folder for folder in folders if not folder.exists()]
    try:
        yield
    finally:
        with suppress(OSError):
            for folder in new:
                folder.rmdir()


def unwritable(output_dir: Path, error: OSError) -> UserError:
    """Return the UserError for an output_dir that cannot be written to."""
    return UserError(f"--output_dir {output_dir} cannot be written to ({error.strerror}): give a folder of yours")


def _take(lock: FileLock) -> None:
    """Acquire the lock of an output_dir; raise UserError if another run has it."""
    output_dir = Path(lock.lock_file).parent
    try:
        if not _is_acquired(lock, MOMENT):
            holder = _read_holder(lock)
            if not _is_running_here(holder):
                logger.warning(
                    "LOCK: %s is in use by %s: waiting up to %d seconds, as that may have died, and the lock be freed",
                    output_dir,
                    _describe(holder),
                    LEASE,
                )
            if _is_running_here(holder) or not _is_acquired(lock, LEASE):
                raise UserError(
                    f"--output_dir {output_dir} is in use by {_describe(_read_holder(lock))}: wait until that has "
                    "ended, or give another --output_dir"
                )
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise unwritable(output_dir, error) from None
        logger.warning(
            "LOCK: the file system of %s has no locks (%s): see that no other run writes there",
            output_dir,
            error.strerror,
        )
    else:
        _record_holder(lock)


def _warn_if_held(lock: FileLock) -> None:
    # To look at a lock is to take it, which would make its file.
    if not Path(lock.lock_file).exists():
        return
    with suppress(OSError):
        if _is_acquired(lock, 0):
            lock.release()
        else:
            logger.warning(
                "LOCK: %s is in use by %s: without --dry_run, this would be an error",
                Path(lock.lock_file).parent,
                _describe(_read_holder(lock)),
            )


def _is_acquired(lock: FileLock, patience: float) -> bool:
    """Try to acquire a lock for ``patience`` seconds; return whether it is acquired."""
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        return False
    return True


def _record_holder(lock: FileLock) -> None:
    """Write into the lock's file who holds it."""
    if hasattr(lock, "pid"):  # a soft lock, which has a record of its own there
        return
    started = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    record = {"host": socket.gethostname(), "pid": os.getpid(), "started": started}
    with suppress(OSError):  # the disk may be full
        Path(lock.lock_file).write_text(json.dumps(record), encoding="utf-8")


def _read_holder(lock: FileLock) -> dict:
    """Return host, pid and start of the process that holds a lock; empty if they are not known."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(Path(lock.lock_file).read_text(encoding="utf-8"))
        return {"host": record["host"], "pid": int(record["pid"]), "started": record["started"]}
    return {}


def _describe(holder: dict) -> str:
    return "process {pid} on {host}, started {started}".format(**holder) if holder else "another process"


def _is_running_here(holder: dict) -> bool:
    """Return whether a holder is alive on this machine; not if its pid is that of a process that began later.

    A container that replaces one of a machine that has died may have its name, and the same pids.
    """
    if holder.get("host") != socket.gethostname():
        return False
    with suppress(psutil.Error, ValueError, TypeError):
        # The clock may have been set since.
        return psutil.Process(holder["pid"]).create_time() < datetime.fromisoformat(holder["started"]).timestamp() + 1
    return False
