"""Check that trackers get the values of trainer_state.json under their own names, and no secret."""

import json
import shutil
import struct
import sys
import time
from pathlib import Path

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback, trainer
from wandb.proto.wandb_internal_pb2 import Record

from tests.utils import SAMPLE

SECRET = "hf_" + "s" * 20
# The keys that wandb keeps once per run, in its summary.
ONCE = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def train(run_pretraining_script, pair_checkpoint, out, monkeypatch):
    """Return a function that takes four steps of both objectives, with a secret on the command line."""

    def run(*argv) -> str:
        argv = (
            "--model_name_or_path", pair_checkpoint("bert"), "--train_file", SAMPLE, "--sentence_per_line",
            "--max_seq_length", 32, "--do_train", "--do_eval", "--max_eval_samples", 20, "--max_steps", 4,
            "--logging_steps", 1, "--eval_strategy", "steps", "--eval_steps", 2, "--save_steps", 2,
            "--per_device_train_batch_size", 4, "--output_dir", out, "--token", SECRET, f"--hub_token={SECRET}", *argv,
        )  # fmt: skip
        # As in a shell.
        monkeypatch.setattr(sys, "argv", ["run_pretraining.py", *map(str, argv)])
        code, printed, errors = run_pretraining_script(*argv)
        assert code == 0, errors
        return printed

    return run


def logged(out, leave_out=()) -> dict[str, list[tuple]]:
    """Return steps and values in trainer_state.json, by their names in trackers."""
    series = {}
    for entry in json.loads((out / "trainer_state.json").read_text())["log_history"]:
        for name, value in entry.items():
            if name != "step" and name not in leave_out and "resumed" not in entry:
                name = f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}"
                series.setdefault(name, []).append((entry["step"], value))
    return series


def assert_secret_is_nowhere(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.fixture(scope="session")
def wandb_runs(tmp_path_factory):
    """Return a function that returns the files of runs that are new since its last call.

    wandb reads its settings once per process, and cannot restart its service in it.
    """
    folder, seen = tmp_path_factory.mktemp("wandb"), set()

    def new() -> list[Path]:
        found = set(folder.glob("wandb/offline-run-*/*.wandb")) - seen
        seen.update(found)
        return sorted(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_DIR", str(folder))
        # On a busy machine, its service takes longer to start than the default timeout of 30 s.
        patch.setenv("WANDB__SERVICE_WAIT", "600")
        patch.setenv("WANDB_INIT_TIMEOUT", "600")
        yield new
    wandb.teardown()


def events_of(path) -> dict[str, list[tuple]]:
    """Return steps and values of the scalars in an event file of TensorBoard."""
    events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    names = events.Tags()["scalars"]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}


def assert_close(found, expected):
    """TensorBoard stores 32-bit numbers."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in values], name
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in values], rel=1e-6), name


def test_tensorboard_has_the_whole_log_and_resumes_without_a_gap(train, out):
    train("--report_to", "tensorboard", "--run_name", "one")
    (first,) = out.glob("runs/*/events*")
    found, whole = events_of(first), logged(out)
    assert_close(found, whole)
    for name in ("loss", "mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy", "tokens_per_second", "mfu"):
        assert [step for step, _ in found[f"train/{name}"]] == [1, 2, 3, 4]
    # Before training, twice during it, and after it.
    for name in ("loss", "mlm_perplexity", "mlm_accuracy", "nsp_accuracy", "nsp_f1"):
        assert [step for step, _ in found[f"eval/{name}"]] == [0, 2, 4, 4]
    # As if killed in the fourth step.
    shutil.rmtree(out / "checkpoint-4")
    train("--report_to", "tensorboard")
    (second,) = set(out.glob("runs/*/events*")) - {first}
    found = events_of(second)
    assert [step for step, _ in found["train/loss"]] == [3, 4]
    assert [step for step, _ in found["eval/loss"]] == [4, 4]
    assert_close({"train/loss": found["train/loss"]}, {"train/loss": whole["train/loss"][2:]})
    assert_secret_is_nowhere(out)


def records_of(path: Path) -> list[Record]:
    """Return the records of a .wandb file when the last one is written; the service may be slower than wandb.finish."""
    deadline = time.monotonic() + 60
    while not (records := read_records(path)) or not records[-1].HasField("exit"):
        assert time.monotonic() < deadline, (
            f"{path} has no end: {[record.WhichOneof('record_type') for record in records]}"
        )
        time.sleep(0.05)
    return records


def read_records(path: Path) -> list[Record]:
    """Return the complete records of a log in LevelDB's format: blocks of 32 KB after seven bytes of wandb."""
    data, place, part, records = path.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        room = 32768 - place % 32768
        if room < 7:  # too little for a header
            place += room
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        if place + 7 + length > len(data):
            break
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # complete, or the last part
            records.append(Record.FromString(part))
            part = b""
    return records


def test_wandb_has_the_whole_log_and_no_token(train, out, wandb_runs):
    try:
        train("--report_to", "wandb", "--run_name", "with a name")
    finally:
        wandb.finish()
    (path,) = wandb_runs()
    records = records_of(path)
    series = {}
    for record in records:
        if record.HasField("history"):
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for name, value in row.items():
                if not name.startswith("_") and name != "train/global_step":
                    series.setdefault(name, []).append((row["train/global_step"], value))
    assert series == logged(out, leave_out=ONCE)
    assert next(record.run.display_name for record in records if record.HasField("run")) == "with a name"
    assert_secret_is_nowhere(path.parents[2])


def test_wandb_has_a_run_for_each_run_of_a_comparison(run_classification_script, checkpoint, out, wandb_runs):
    try:
        code, _, errors = run_classification_script(
            "--compare_with", f"a={checkpoint('bert')}", f"b={checkpoint('distilbert')}", "--num_seeds", 1,
            "--train_file", SAMPLE, "--max_seq_length", 32, "--max_train_samples", 16, "--max_eval_samples", 16,
            "--max_steps", 1, "--do_train", "--do_eval", "--report_to", "wandb", "--output_dir", out,
        )  # fmt: skip
    finally:
        wandb.finish()
    assert code == 0, errors
    found = [records_of(path) for path in wandb_runs()]
    names = {record.run.display_name for records in found for record in records if record.HasField("run")}
    assert names == {"a-seed-42", "b-seed-42"}


def test_trackers_end_once_after_the_last_evaluation(train, monkeypatch):
    """Otherwise MLflow and Trackio would start another run for it."""
    events = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs, **kwargs):
            events.append(f"{'eval_loss' if 'eval_loss' in logs else 'log'} at {state.global_step}")

        def on_train_end(self, args, state, control, **kwargs):
            events.append("end")

    monkeypatch.setattr(trainer, "DEFAULT_CALLBACKS", [*trainer.DEFAULT_CALLBACKS, Tracker])
    train()
    assert events[-2:] == ["eval_loss at 4", "end"]
    assert events.count("end") == 1
    assert events[0] == "eval_loss at 0"


@pytest.fixture
def no_login(wandb_runs, tmp_path, monkeypatch):
    """Set wandb online, without a login."""
    monkeypatch.setattr(wandb.setup().settings, "mode", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


@pytest.fixture
def fail(run_mlm_script, checkpoint, out):
    """Return a function that runs a script and returns its error line."""

    def run(*argv) -> str:
        code, _, errors = run_mlm_script(
            "--model_name_or_path", checkpoint("bert"), "--train_file", SAMPLE, "--max_seq_length", 32, "--do_train",
            "--max_steps", 1, "--output_dir", out, *argv,
        )  # fmt: skip
        assert code == 2
        assert errors.count("\n") == 1
        return errors

    return run


@pytest.mark.parametrize("argv", [(), ("--dry_run",)])
def test_wandb_without_login_is_an_error_before_the_model_is_loaded(argv, fail, no_login, monkeypatch):
    monkeypatch.setattr("cloze.training.context.set_up", None)
    assert "--report_to wandb: not logged in: run wandb login, or set WANDB_MODE=off" in fail(
        "--report_to", "wandb", *argv
    )


def test_wandb_login_error_is_one_line(fail, no_login, monkeypatch):
    def login(**kwargs):
        raise wandb.Error("No network.\nTry later.")

    monkeypatch.setattr(wandb, "login", login)
    assert "--report_to wandb: No network. Try later: run wandb login" in fail("--report_to", "wandb")


def test_report_to_all_uses_the_available_trackers(train, out, no_login, monkeypatch):
    printed = train("--report_to", "all", "--max_steps", 1)
    assert "warning: dropping tracker wandb: not logged in" in printed
    (events,) = out.glob("runs/*/events*")
    assert "train/loss" in events_of(events)
    assert "report_to:\n- all" in (out / "recipe.yaml").read_text()
    # TensorBoard cannot start.
    (out / "file").touch()
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(out / "file" / "runs"))
    printed = train("--report_to", "all", "--max_steps", 1, "--overwrite_output_dir")
    assert "warning: dropping tracker tensorboard: [Errno 20] Not a directory" in printed


def test_tracker_that_fails_to_start_is_one_line(fail, out, monkeypatch):
    out.mkdir()
    (out / "file").touch()
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(out / "file" / "runs"))
    assert "--report_to tensorboard: [Errno 20] Not a directory" in fail("--report_to", "tensorboard")
