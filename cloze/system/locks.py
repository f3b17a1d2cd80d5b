"""Lock files: allow one run per output_dir, and report what a run waits for."""

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

# In output_dir. The Trainer does not upload names with this prefix.
RUN_LOCK = "_run.lock"
# Seconds until a dry run or an ending run has released its lock, and until a file server releases the lock of a dead
# machine: the lease of NFSv4 on Linux is 90 s.
MOMENT, LEASE = 1, 120
# Errors of file systems without locks: Lustre without -o flock, NFS without its lock daemon, some FUSE file systems.
UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def acquire(lock: FileLock, what: str) -> AcquireReturnProxy:
    """Acquire a lock without a time limit; log from time to time what the run waits for."""
    patience = processes.FIRST_NOTICE
    while not _is_acquired(lock, patience):
        logger.warning("waiting for %s: %s is held by %s", what, lock.lock_file, _describe(_read_holder(lock)))
        patience = processes.NEXT_NOTICE
    _record_holder(lock)
    return AcquireReturnProxy(lock)


@contextmanager
def lock_output_dir(output_dir: str, *, dry_run: bool, prepare_only: bool) -> Iterator[None]:
    """Lock output_dir during a run; raise UserError if another run has locked it.

    Every run that writes there takes the lock: training, and also --do_eval or --do_predict alone, as two of them would
    overwrite each other's results. --prepare_only writes only to the cache and takes no lock. --dry_run leaves no files
    and only warns.

    The first process holds the lock for all processes. The kernel releases it when that process dies. Forked children,
    such as data-loader workers, do not hold it, as filelock closes it in them. The file stays, empty: after a deletion,
    two processes could lock two different files.
    """
    # filelock's fallback for file systems without locks, a soft lock, would outlive a killed node.
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
    """Remove the folders that were created for ``path``, if they are empty."""
    folders = [Path(path).absolute(), *Path(path).absolute().parents]
    new = [folder for folder in folders if not folder.exists()]
    try:
        yield
    finally:
        with suppress(OSError):
            for folder in new:
                folder.rmdir()


def unwritable(output_dir: Path, error: OSError) -> UserError:
    """Return the UserError for an output_dir that is not writable."""
    return UserError(f"--output_dir {output_dir} cannot be written to ({error.strerror}): give a folder of your own")


def _take(lock: FileLock) -> None:
    """Acquire the lock of an output_dir; raise UserError if another run holds it."""
    output_dir = Path(lock.lock_file).parent
    try:
        if not _is_acquired(lock, MOMENT):
            holder = _read_holder(lock)
            if not _is_running_here(holder):
                logger.warning(
                    "%s is in use by %s: waiting up to %d seconds, in case it has died and its lock is released",
                    output_dir,
                    _describe(holder),
                    LEASE,
                )
            if _is_running_here(holder) or not _is_acquired(lock, LEASE):
                raise UserError(
                    f"--output_dir {output_dir} is in use by {_describe(_read_holder(lock))}: wait until it has "
                    "ended, or give another --output_dir"
                )
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise unwritable(output_dir, error) from None
        logger.warning(
            "no lock on %s, as its file system has none (%s): make sure that no other run writes there",
            output_dir,
            error.strerror,
        )
    else:
        _record_holder(lock)


def _warn_if_held(lock: FileLock) -> None:
    # Testing a lock means taking it, which would create the file.
    if not Path(lock.lock_file).exists():
        return
    with suppress(OSError):
        if _is_acquired(lock, 0):
            lock.release()
        else:
            logger.warning(
                "%s is in use by %s: without --dry_run, this is an error",
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
    """Write host, pid and start time of this process into the lock's file."""
    if hasattr(lock, "pid"):  # a soft lock, which writes its own record
        return
    started = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    record = {"host": socket.gethostname(), "pid": os.getpid(), "started": started}
    with suppress(OSError):  # the disk may be full
        Path(lock.lock_file).write_text(json.dumps(record), encoding="utf-8")


def _read_holder(lock: FileLock) -> dict:
    """Return host, pid and start time of the process that holds a lock; empty if unknown."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(Path(lock.lock_file).read_text(encoding="utf-8"))
        return {"host": record["host"], "pid": int(record["pid"]), "started": record["started"]}
    return {}


def _describe(holder: dict) -> str:
    return "process {pid} on {host}, started {started}".format(**holder) if holder else "another process"


def _is_running_here(holder: dict) -> bool:
    """Return whether the holder is alive on this machine. A process with its pid that started later does not count.

    A container that replaces one on a dead machine may have the same name and pids.
    """
    if holder.get("host") != socket.gethostname():
        return False
    with suppress(psutil.Error, ValueError, TypeError):
        # Allow a second, as the clock may have been adjusted.
        return psutil.Process(holder["pid"]).create_time() < datetime.fromisoformat(holder["started"]).timestamp() + 1
    return False
