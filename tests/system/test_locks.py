"""Test that an output_dir has one run at a time, and that waits are reported."""

import errno
import fcntl
import json
import logging
import os
import re
import shutil
import signal
import socket
import time
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest
import torch.distributed as dist
from filelock import FileLock
from torch.distributed import distributed_c10d

from cloze.system import locks, processes
from cloze.system.locks import RUN_LOCK
from cloze.training.checkpoints import list_checkpoints
from tests.utils import CONTEXT, SAMPLE, start, start_together

ELSEWHERE = {"host": "node-b", "pid": 4242, "started": "2016-01-02 03:04:05+00:00"}
TINY = "hidden_size=16,num_hidden_layers=2,num_attention_heads=2,intermediate_size=32,max_position_embeddings=66"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def script(run_mlm_script, tmp_path):
    """Return ``script(...)``, which runs run_mlm.py from scratch and returns exit code, stdout and stderr."""
    return lambda *argv: run_mlm_script(*flags(tmp_path), *argv)


def flags(tmp_path):
    return (
        "--model_type", "bert", "--config_overrides", TINY, "--vocab_size", 600, "--train_file", SAMPLE,
        "--max_seq_length", 32, "--logging_steps", 1, "--save_steps", 4, "--cache_dir", tmp_path / "cache",
        "--output_dir", tmp_path / "out",
    )  # fmt: skip


@contextmanager
def held(path, record=None):
    """Hold a lock, with the record of another process in its file."""
    path.parent.mkdir(exist_ok=True, parents=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        now = datetime.now().astimezone().isoformat()
        file.write(json.dumps(record or {"host": socket.gethostname(), "pid": os.getpid(), "started": now}))
        file.flush()
        yield file


def wait_for(log, text, process):
    while text not in (log.read_text() if log.exists() else ""):
        assert process.is_alive(), log.read_text()
        time.sleep(0.01)


# One run in an output_dir


def test_second_run_ends_and_one_after_a_kill_resumes(tmp_path, out):
    """Resume at once, although a data-loader worker outlives the killed process."""
    # Persistent: otherwise there is no worker between two epochs.
    workers = ("--dataloader_num_workers", 1, "--dataloader_persistent_workers")
    argv = ("run_mlm", *flags(tmp_path), "--do_train", *workers)
    logs = [tmp_path / name for name in ("first", "second", "third")]
    first = start(*argv, "--max_steps", 100000, log=logs[0])
    wait_for(logs[0], "\ntrain ", first)
    second = start(*argv, "--max_steps", 4, log=logs[1])
    second.join()
    assert second.exitcode == 2
    (error,) = (line for line in logs[1].read_text().splitlines() if "error" in line)
    expected = (
        rf"error: --output_dir {out} is in use by process {first.pid} on {socket.gethostname()}, started \S+ \S+: "
    )
    assert re.fullmatch(expected + "wait until it has ended, or give another --output_dir", error)
    while not list_checkpoints(str(out)):
        assert first.is_alive(), logs[0].read_text()
        time.sleep(0.01)
    (worker,) = psutil.Process(first.pid).children()
    worker.suspend()
    first.kill()
    first.join()
    third = start(*argv, "--max_steps", 100000, log=logs[2])
    wait_for(logs[2], "\ntrain ", third)
    third.kill()
    worker.kill()
    assert "Resuming from" in logs[2].read_text()
    assert "is in use by" not in logs[2].read_text()


def test_all_processes_of_a_second_run_end(tmp_path, out):
    log = tmp_path / "log"
    with held(out / RUN_LOCK):
        processes = start_together("run_mlm", *flags(tmp_path), "--do_train", log=log)
        for process in processes:
            process.join()
    assert [process.exitcode for process in processes] == [2, 2]
    assert all("is in use by process" in log.with_suffix(f".{rank}").read_text() for rank in range(2))


@pytest.mark.parametrize(
    "mode", ["--do_train", "--do_eval", "--do_predict --test_file none.txt", "--do_train --overwrite_output_dir"]
)
def test_locked_output_dir_refuses_writers_before_any_change(mode, script, out, monkeypatch):
    monkeypatch.setattr(locks, "MOMENT", 0)
    with held(out / RUN_LOCK):
        (out / "checkpoint-incomplete").mkdir()
        code, _, errors = script(*mode.split())
    assert code == 2
    assert f"is in use by process {os.getpid()} on" in errors
    assert sorted(os.listdir(out)) == [RUN_LOCK, "checkpoint-incomplete"]


def test_runs_without_results_ignore_the_lock(script, out):
    with held(out / RUN_LOCK):
        code, printed, errors = script("--do_train", "--prepare_only")
        assert (code, "is in use by" in printed) == (0, False), errors
        code, printed, errors = script("--do_train", "--dry_run")
    assert code == 0, errors
    assert f"warning: {out} is in use by process {os.getpid()} on" in printed
    assert "without --dry_run, this is an error" in printed
    _, printed, _ = script("--do_train", "--dry_run")
    assert "is in use by" not in printed


@pytest.mark.parametrize("folder", ["", "a/seed-42"])
def test_comparison_locks_its_folder_and_those_of_its_runs(
    folder, run_classification_script, checkpoint, out, monkeypatch
):
    monkeypatch.setattr(locks, "MOMENT", 0)
    model = checkpoint("bert")
    with held(out / folder / RUN_LOCK):
        code, _, errors = run_classification_script(
            "--compare_with", f"a={model}", f"b={model}", "--train_file", SAMPLE, "--max_seq_length", 32, "--do_train",
            "--do_eval", "--max_train_samples", 16, "--max_eval_samples", 40, "--output_dir", out,
        )  # fmt: skip
    assert code == 2
    assert f"--output_dir {out / folder} is in use" in errors
    assert not list(out.rglob("checkpoint-*"))


@pytest.mark.parametrize("freed", [True, False])
@pytest.mark.parametrize("holder", [ELSEWHERE, ELSEWHERE | {"host": socket.gethostname(), "pid": os.getpid()}])
def test_lock_of_another_machine_is_waited_for(holder, freed, out, monkeypatch, caplog):
    """The other machine may have died: its job restarts here or in a container of the same name, before the file
    server has released the lock."""
    monkeypatch.setattr(locks, "MOMENT", 0)
    monkeypatch.setattr(locks, "LEASE", 60 if freed else 0)
    lock = FileLock(out / RUN_LOCK, fallback_to_soft=False)
    with held(out / RUN_LOCK, holder) as file:
        if freed:
            on_record(monkeypatch, 1, file.close)
            locks._take(lock)
            assert locks._read_holder(lock)["pid"] == os.getpid()
        else:
            with pytest.raises(locks.UserError, match=re.escape(f"in use by {locks._describe(holder)}")):
                locks._take(lock)
    lock.release()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{out} is in use by {locks._describe(holder)}: waiting up to")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_file_system_without_locks_is_warned_about(number, script, out, monkeypatch):
    flock = fcntl.flock

    def unsupported(file, operation):
        if os.readlink(f"/proc/self/fd/{file}") == str(out / RUN_LOCK):
            raise OSError(number, os.strerror(number))
        return flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", unsupported)
    code, printed, errors = script("--do_train", "--max_steps", 1)
    assert code == 0, errors
    assert printed.count(f"warning: no lock on {out}, as its file system has none ({os.strerror(number)}): ") == 1


@pytest.mark.parametrize("content", ["", "4242", "[]", '{"host": "node-b"}', '{"host": 1, "pid": "x", "started": 1}'])
def test_unreadable_lock_record_is_ignored(content, out, monkeypatch):
    monkeypatch.setattr(locks, "MOMENT", 0)
    monkeypatch.setattr(locks, "LEASE", 0)
    with held(out / RUN_LOCK):
        (out / RUN_LOCK).write_text(content)
        with pytest.raises(locks.UserError, match="in use by another process"):
            locks._take(FileLock(out / RUN_LOCK, fallback_to_soft=False))


def test_lock_is_released_after_the_run_and_not_uploaded(script, out):
    """The Trainer uploads all files of output_dir but those that begin with an underscore."""
    for _ in range(2):
        code, _, errors = script("--do_train", "--max_steps", 1, "--overwrite_output_dir")
        assert code == 0, errors
    assert (out / RUN_LOCK).read_text() == ""
    assert RUN_LOCK.startswith("_")


# Waits


def on_record(monkeypatch, count, react):
    """Call ``react`` after ``count`` warnings of waits."""
    seen = []

    def emit(record):
        seen.append(record)
        if len(seen) == count:
            react()

    handler = logging.Handler()
    handler.emit = emit
    monkeypatch.setattr(locks.logger, "handlers", [handler])


@pytest.mark.parametrize("kind", ["corpus", "tokenizer"])
def test_cache_wait_is_logged_every_minute(kind, script, tmp_path, monkeypatch, caplog):
    assert script("--do_train", "--prepare_only")[0] == 0
    (entry,) = (path for path in (tmp_path / "cache").rglob(f"{kind}-*") if path.is_dir())
    shutil.rmtree(entry)
    monkeypatch.setattr(processes, "FIRST_NOTICE", 0.01)
    monkeypatch.setattr(processes, "NEXT_NOTICE", 0.01)
    lock = Path(f"{entry}.lock")
    with held(lock, ELSEWHERE) as file:
        on_record(monkeypatch, 3, file.close)
        code, _, errors = script("--do_train", "--prepare_only")
    assert code == 0, errors
    lines = [record.getMessage() for record in caplog.records if "waiting for" in record.getMessage()]
    what = {"corpus": "the prepared corpus", "tokenizer": "the trained tokenizer"}[kind]
    assert len(lines) == 3
    assert set(lines) == {lines[0]}
    assert re.match(rf"waiting for {what}: {lock} is held by process 4242 on node-b, started 2016", lines[0])
    assert json.loads(lock.read_text())["pid"] == os.getpid()


def test_missing_processes_are_named(script, monkeypatch, caplog):
    """Warn while the main thread waits in C++, then end with a one-line error."""
    # At port 0, the process listens at any free port.
    stale = {"WORLD_SIZE": 3, "RANK": 0, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 3, "MASTER_ADDR": "127.0.0.1"}
    for name, value in (stale | {"MASTER_PORT": 0}).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(processes, "FIRST_NOTICE", 0)
    monkeypatch.setattr(processes, "NEXT_NOTICE", 0.01)
    monkeypatch.setattr(distributed_c10d, "default_pg_timeout", timedelta(seconds=1))
    code, printed, errors = script("--do_train", "--use_cpu")
    assert code == 2
    others = "3 processes at 127.0.0.1:0, the WORLD_SIZE in the environment"
    assert printed.count(f"warning: process 0 is waiting for {others}: start all of them") > 1
    assert re.match(rf"error: cannot connect {others} \(.*\): start all of them, or unset WORLD_SIZE", errors)


def wait_for_others(log):
    logging.basicConfig(filename=log)
    processes.FIRST_NOTICE = 0
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: None)
    os.environ["WORLD_SIZE"] = "2"
    with processes.waiting_for_processes():
        dist.TCPStore("127.0.0.1", 0, 2, is_master=True, timeout=timedelta(seconds=60))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_signal_ends_the_wait_for_processes(number, code, tmp_path):
    """Python's own handler would run only after the timeout of a minute."""
    log = tmp_path / "log"
    process = CONTEXT.Process(target=wait_for_others, args=(log,))
    process.start()
    wait_for(log, "is waiting for 2 processes", process)
    os.kill(process.pid, number)
    process.join(30)
    assert process.exitcode == code


def test_single_process_waits_for_none(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr(processes, "_report", lambda signals: pytest.fail("a thread was started"))
    with processes.waiting_for_processes():
        pass
