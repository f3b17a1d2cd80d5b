"""Runs that are broken off and gone on with: killed, stopped by signals, out of disk, out of time."""

import errno
import gzip
import json
import logging
import math
import os
import random
import re
import resource
import shutil
import signal
import time
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
import zstandard
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import Trainer

from cloze.inference import fill_mask
from cloze.reporting import summary as report
from cloze.system.storage import CHECKSUMS
from cloze.training import callbacks as interruption
from cloze.training import checkpoints
from cloze.training.checkpoints import find_damage
from cloze.training.trainer import PretrainingTrainer
from tests.utils import SAMPLE, slow_but, start

# With dropout: its random numbers must resume as well.
MODEL = "hidden_size=16,num_hidden_layers=2,num_attention_heads=2,intermediate_size=32,max_position_embeddings=66"
XLNET = "d_model=16,n_layer=2,n_head=2,d_inner=32"
SCRATCH = ("--model_type", "bert", "--config_overrides", MODEL, "--vocab_size", 600)

KINDS = {
    "blocks": ("run_mlm",),
    "lines": ("run_mlm", "--line_by_line", "--gradient_accumulation_steps", 2),
    "causal": ("run_clm", "--model_type", "gpt2", "--config_overrides", "n_embd=16,n_layer=2,n_head=2,n_positions=66"),
    "causal stream": ("run_clm", "--streaming", "--line_by_line", "--gradient_accumulation_steps", 2),
    "pairs": ("run_nsp", "--sentence_per_line", "--gradient_accumulation_steps", 3),
    "both": ("run_pretraining", "--sentence_per_line", "--pair_strategy", "sentence"),
    "muon": ("run_mlm", "--optim", "muon", "--muon_learning_rate", 0.02, "--embedding_learning_rate", 0.004),
    "budget": ("run_mlm", "--line_by_line", "--max_tokens_per_batch", 128),
    "stream": ("run_mlm", "--streaming", "--gradient_accumulation_steps", 3),
    "pairs streamed": ("run_nsp", "--streaming", "--sentence_per_line"),
    "mixed": ("run_mlm", "--mixture", "text=0.9", "more=0.1"),
    "mixed pairs": (
        "run_nsp",
        "--mixture",
        "text=0.4",
        "more=0.6",
        "--sentence_per_line",
        "--gradient_accumulation_steps",
        2,
    ),
    "permutations": ("run_plm", "--model_type", "xlnet", "--config_overrides", XLNET, "--max_train_samples", 30),
    "mixed stream": ("run_mlm", "--mixture", "text=80", "more=20", "--streaming"),
    "averaged": ("run_mlm", "--ema_decay", 0.9),
    "schedules": (
        "run_mlm",
        "--final_mlm_probability",
        0.6,
        "--sequence_length_schedule",
        "16:32",
        "--batch_size_schedule",
        "0.25:0.5:1",
        "--gradient_accumulation_steps",
        2,
    ),
    "schedules streamed": (
        "run_mlm",
        "--streaming",
        "--final_mlm_probability",
        0.6,
        "--sequence_length_schedule",
        "8:16:32",
        "--gradient_accumulation_steps",
        3,
    ),
}

IGNORED_BEST = "ignoring the best evaluation so far: not accuracy (--metric_for_best_model) on the same validation text"


class Killed(BaseException):
    """Simulate kill -9 in a process that lives on: no handler of the scripts catches it."""


@pytest.fixture
def scripts(run_mlm_script, run_clm_script, run_plm_script, run_nsp_script, run_pretraining_script):
    return {
        "run_mlm": run_mlm_script,
        "run_clm": run_clm_script,
        "run_plm": run_plm_script,
        "run_nsp": run_nsp_script,
        "run_pretraining": run_pretraining_script,
    }


@pytest.fixture(scope="module")
def folder_of_text(tmp_path_factory):
    return tmp_path_factory.mktemp("text")


@pytest.fixture
def text(texts, folder_of_text):
    """Few enough sentences that 12 steps are more than an epoch; of the same path and time for all tests."""
    path = folder_of_text / "text.txt"
    path.write_text("\n\n".join("\n".join(texts[i : i + 6]) for i in range(0, 36, 6)))
    more = path.with_name("more.txt")
    more.write_text("\n\n".join("\n".join(texts[i : i + 4]) for i in range(36, 60, 4)))
    for each in (path, more):
        os.utime(each, (10**9, 10**9))
    return path


@pytest.fixture
def train(scripts, text):
    """``train(out, kind, ...)`` gives exit code, output and errors of a run of 12 steps."""

    def run(out, kind, *argv):
        script, *flags = KINDS[kind]
        files = [f"text={text}", f"more={text.with_name('more.txt')}"] if "--mixture" in flags else [text]
        return scripts[script](
            *SCRATCH, "--train_file", *files, "--max_seq_length", 32, "--do_train", "--max_steps", 12, "--seed", 3,
            "--per_device_train_batch_size", 4, "--learning_rate", 0.01, "--save_steps", 3, "--logging_steps", 4,
            "--output_dir", out, *flags, *argv,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def references():
    return {}


@pytest.fixture
def reference(train, references, tmp_path_factory):
    """``reference(kind, ...)`` is the folder of such a run, which nothing interrupts; made once for all tests."""

    def make(*argv) -> Path:
        if argv not in references:
            out = tmp_path_factory.mktemp("reference") / "out"
            assert train(out, *argv)[::2] == (0, "")
            references[argv] = out
        return references[argv]

    return make


def losses(out) -> list[tuple]:
    """Return everything logged in training except the throughput."""
    names = ("step", "epoch", "loss", "mlm_loss", "nsp_loss", "accuracy", "mlm_accuracy", "grad_norm", "learning_rate")
    entries = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [tuple(entry.get(name) for name in names) for entry in entries if "loss" in entry]


def resumed(out) -> list[int]:
    """Return the steps from which the run was resumed."""
    entries = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [entry["step"] for entry in entries if "resumed" in entry]


def assert_same(out, whole):
    weights, expected = load_file(out / "model.safetensors"), load_file(whole / "model.safetensors")
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    averages = [
        {path.parent.name: load_file(path) for path in folder.glob("checkpoint-*/averaged_weights.safetensors")}
        for folder in (out, whole)
    ]
    assert_close(*averages, rtol=0, atol=0)
    assert losses(out) == losses(whole)
    ends = [json.loads((folder / "trainer_state.json").read_text())["log_history"] for folder in (out, whole)]
    ends = [[(entry["step"], entry["train_loss"]) for entry in end if "train_loss" in entry] for end in ends]
    assert ends[0] == ends[1]
    same = ("train_loss", "train_samples")
    results = [json.loads((folder / "train_results.json").read_text()) for folder in (out, whole)]
    assert [results[0].get(name) for name in same] == [results[1].get(name) for name in same]


def steps_in_epoch(out) -> int:
    return json.loads((next(out.glob("checkpoint-*")) / "progress.json").read_text())["steps_in_epoch"]


def is_evaluated(out, step) -> bool:
    """Whether the checkpoint of the step has its evaluation, and none is due when it is resumed."""
    checkpoint = out / f"checkpoint-{step}"
    assert not json.loads((checkpoint / "progress.json").read_text())["evaluation_due"]
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return any("eval_loss" in entry and entry["step"] == step for entry in history)


def write_sums(checkpoint):
    """Write the checksums of the present files."""
    files = sorted(path for path in checkpoint.iterdir() if path.name != CHECKSUMS)
    sums = "".join(f"{sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (checkpoint / CHECKSUMS).write_text(sums)


def kill_at(step, monkeypatch, run, *argv):
    """Kill the process in the forward of this step."""
    compute_loss = PretrainingTrainer.compute_loss

    def dying(self, *args, **kwargs):
        if self.state.global_step + 1 == step:
            raise Killed
        return compute_loss(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(PretrainingTrainer, "compute_loss", dying)
        with pytest.raises(Killed):
            run(*argv)


WORKERS = [*((kind, 0) for kind in KINDS), ("lines", 2), ("both", 2), ("stream", 2)]
WORKERS += [("mixed", 2), ("mixed stream", 2), ("schedules streamed", 2)]
QUICK = [("blocks", 0), ("causal", 0), ("permutations", 0), ("both", 0), ("budget", 0), ("stream", 0), ("lines", 2)]
QUICK += [("mixed", 0), ("averaged", 0), ("schedules", 0), ("muon", 0)]


@pytest.mark.parametrize(("kind", "workers"), slow_but(QUICK, WORKERS))
def test_repeatedly_killed_run_resumes_exactly(kind, workers, train, reference, tmp_path, monkeypatch):
    """transformers#11284: bit for bit the same weights, and the same losses, though logs and saves do not coincide."""
    argv = ("--dataloader_num_workers", workers)
    whole = reference(kind, *argv)
    for step in (5, 8, 11):
        kill_at(step, monkeypatch, train, tmp_path / "out", kind, *argv)
    code, printed, errors = train(tmp_path / "out", kind, *argv)
    assert (code, errors) == (0, "")
    assert f"Resuming from {tmp_path / 'out' / 'checkpoint-9'}" in printed
    assert_same(tmp_path / "out", whole)
    assert (resumed(tmp_path / "out"), resumed(whole)) == ([3, 6, 9], [])
    entries = losses(whole)
    assert [entry[0] for entry in entries] == [1, 4, 8, 12]
    if "stream" not in kind:
        assert any(entry[1] > 1 and entry[1] % 1 for entry in entries), "the middle of a later epoch"


def test_warmup_stable_decay_in_a_recipe_resumes_exactly(train, scripts, tmp_path, monkeypatch):
    """With fractions; and a longer run continues at the peak."""
    argv = ("--logging_steps", 1, "--warmup_steps", 0.25, "--lr_scheduler_type", "warmup_stable_decay")
    assert train(tmp_path / "whole", "blocks", *argv, "--lr_scheduler_kwargs", DECAY)[::2] == (0, "")
    recipe = yaml.safe_load((tmp_path / "whole" / "recipe.yaml").read_text())
    changed = {"output_dir": str(tmp_path / "out"), "lr_scheduler_kwargs": json.loads(recipe["lr_scheduler_kwargs"])}
    (tmp_path / "again.yaml").write_text(yaml.dump(recipe | changed))
    kill_at(11, monkeypatch, scripts["run_mlm"], tmp_path / "again.yaml")
    assert scripts["run_mlm"](tmp_path / "again.yaml")[0] == 0
    assert resumed(tmp_path / "out") == [9]
    assert_same(tmp_path / "out", tmp_path / "whole")
    # Three steps of warmup, five at the peak, four of decay.
    rates = [0.0, 1 / 3, 2 / 3, *(1.0 for _ in range(6)), 0.75, 0.5, 0.25]
    assert [entry[-1] for entry in losses(tmp_path / "out")] == pytest.approx([0.01 * rate for rate in rates])
    longer = ("--max_steps", 20, "--resume_from_checkpoint", tmp_path / "out" / "checkpoint-9")
    assert scripts["run_mlm"](tmp_path / "again.yaml", *longer)[0] == 0
    rates = [1.0, 1.0, 1.0, *(1 - step / 8 for step in range(8))]
    later = {entry[0]: entry[-1] for entry in losses(tmp_path / "out")}
    assert [later[step] for step in range(10, 21)] == pytest.approx([0.01 * rate for rate in rates])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mixed", "mixed pairs", "mixed stream"])
def test_mixture_killed_five_times_resumes_exactly(kind, train, reference, tmp_path, monkeypatch):
    argv = ("--save_steps", 1)
    whole = reference(kind, *argv)
    for step in (2, 5, 6, 9, 12):
        kill_at(step, monkeypatch, train, tmp_path / "out", kind, *argv)
    assert train(tmp_path / "out", kind, *argv)[::2] == (0, "")
    assert_same(tmp_path / "out", whole)
    assert resumed(tmp_path / "out") == [1, 4, 5, 8, 11]
    rows = [
        re.findall(r"^\| mixture \| .*", (out / "README.md").read_text(), re.M) for out in (tmp_path / "out", whole)
    ]
    assert rows[0] == rows[1] != []


@pytest.mark.parametrize("kind", ["mixed", "mixed stream"])
def test_another_mixture_is_an_error(kind, train, reference, tmp_path):
    shutil.copytree(reference(kind), tmp_path, dirs_exist_ok=True)
    other = ("--mixture", "text=0.6", "more=0.4", "--max_steps", 14)
    code, _, errors = train(tmp_path, kind, *other)
    assert code == 2
    assert "checkpoint-12 was created with different settings (now max_steps 14 (not 12), mixture ['text=0.6'" in errors
    assert errors.endswith("restore them, or pass --overwrite_output_dir to start over, or another --output_dir\n")
    code, _, errors = train(tmp_path, kind, *other, "--resume_from_checkpoint", tmp_path / "checkpoint-12")
    assert code == 2
    assert "checkpoint-12: its position in the texts does not fit mixture ['text=0.6', 'more=0.4'] (not ['te" in errors
    assert errors.count("\n") == 1


DAMAGE = {
    "missing": "optimizer.pt cannot be read (No such file or directory)",
    "cut": "checksum mismatch in optimizer.pt",
    "changed": "checksum mismatch in optimizer.pt",
    "no sums": "SHA256SUMS is incomplete",
    "no text": "SHA256SUMS cannot be read",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_unreadable_checkpoint_is_skipped_for_the_one_before(damage, train, reference, tmp_path):
    """The resumed run replaces it when it saves at the same step."""
    whole = reference("blocks")
    shutil.copytree(whole, tmp_path / "out")
    optimizer = tmp_path / "out" / "checkpoint-12" / "optimizer.pt"
    data = bytearray(optimizer.read_bytes())
    if damage in ("no sums", "no text"):
        (optimizer.parent / "SHA256SUMS").write_bytes(b"\xff" if damage == "no text" else b"")
    elif damage == "missing":
        optimizer.unlink()
    else:
        data[len(data) // 2] ^= 1
        optimizer.write_bytes(data[:-100] if damage == "cut" else data)
    code, printed, errors = train(tmp_path / "out", "blocks")
    assert (code, errors) == (0, "")
    assert f"warning: skipping corrupt {tmp_path / 'out' / 'checkpoint-12'}: {DAMAGE[damage]}\n" in printed
    assert f"Resuming from {tmp_path / 'out' / 'checkpoint-9'}" in printed
    assert_same(tmp_path / "out", whole)
    assert find_damage(tmp_path / "out" / "checkpoint-12") is None


def test_last_step_of_an_epoch_is_saved_with_its_evaluation(train, reference, tmp_path):
    """The step is not evaluated again. Dropout does not depend on whether there was an evaluation."""
    argv = (
        *("--do_eval", "--validation_split_percentage", 20, "--eval_strategy", "epoch", "--save_steps", 1),
        *("--save_total_limit", 20, "--metric_for_best_model", "loss"),
    )
    out = tmp_path / "out"
    whole = reference("blocks", *argv)
    last = steps_in_epoch(whole)
    assert 1 < last < 12
    assert [step for step in range(1, 13) if is_evaluated(whole, step)] == [*range(last, 12, last), 12]
    out.mkdir()
    shutil.copytree(whole / f"checkpoint-{last}", out / f"checkpoint-{last}")
    assert train(out, "blocks", *argv)[0] == 0
    assert_same(out, whole)
    states = [json.loads((folder / "trainer_state.json").read_text()) for folder in (out, whole)]
    evaluations = [
        [(entry["step"], entry["eval_loss"]) for entry in state["log_history"] if "eval_loss" in entry]
        for state in states
    ]
    assert evaluations[0] == evaluations[1]
    assert states[0]["best_global_step"] == states[1]["best_global_step"]


def test_no_readable_checkpoint_is_an_error_that_loses_nothing(train, reference, tmp_path):
    shutil.copytree(reference("blocks"), tmp_path, dirs_exist_ok=True)
    for checkpoint in tmp_path.glob("checkpoint-*"):
        (checkpoint / "model.safetensors").write_bytes(b"")
    before = (tmp_path / "model.safetensors").read_bytes()
    code, _, errors = train(tmp_path, "blocks")
    assert code == 2
    assert "all checkpoints are corrupt" in errors
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("broken_off", ["write_state", "complete", "remove"])
def test_interrupted_save_or_deletion_is_cleaned_up_and_resumed(broken_off, train, reference, tmp_path, monkeypatch):
    """transformers#35782: the next start removes what was being written or deleted, and resumes from the
    checkpoint before."""
    whole = reference("blocks")
    owner = {"write_state": PretrainingTrainer, "complete": checkpoints, "remove": shutil}[broken_off]
    name = "rmtree" if broken_off == "remove" else broken_off
    original, calls = getattr(owner, name), []

    def dying(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            if broken_off == "write_state":
                original(*args, **kwargs)
            raise Killed
        return original(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, dying)
        with pytest.raises(Killed):
            train(tmp_path / "out", "blocks")
    aside = tmp_path / "out" / checkpoints.STAGING_DIR
    assert any(aside.iterdir())
    assert train(tmp_path / "out", "blocks")[0] == 0
    assert not aside.exists()
    assert_same(tmp_path / "out", whole)


@pytest.mark.curves
@pytest.mark.parametrize("broken_off", ["train", "evaluate", "draw_curves", "write_model_card"])
def test_run_killed_after_its_last_step_still_reports_everything(broken_off, train, reference, tmp_path, monkeypatch):
    """Results and model card are written, though training is complete; the throughput is known if it was written."""
    argv = ("--do_eval", "--validation_split_percentage", 30)
    whole = reference("blocks", *argv)
    owner = {"train": Trainer, "evaluate": PretrainingTrainer}.get(broken_off, report)
    original = getattr(owner, broken_off)

    def dying(*args, **kwargs):
        if broken_off == "train":
            original(*args, **kwargs)
        elif broken_off == "evaluate" and args[0].state.global_step < 12:
            return original(*args, **kwargs)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(owner, broken_off, dying)
        with pytest.raises(Killed):
            train(tmp_path / "out", "blocks", *argv)
    if broken_off == "train":
        for name in ("train_results.json", "all_results.json"):
            assert not (tmp_path / "out" / name).exists()
            (tmp_path / "out" / name).write_text("{")  # as far as a kill let it come
    for _ in range(2):  # the second time, all is there
        code, printed, errors = train(tmp_path / "out", "blocks", *argv)
        assert (code, errors) == (0, "")
        assert "Training is already complete" in printed
        assert_same(tmp_path / "out", whole)
        assert resumed(tmp_path / "out") == [], "no step was taken"
        assert (tmp_path / "out" / "curves.png").exists()
        card = (tmp_path / "out" / "README.md").read_text()
        assert re.search(r"masked perplexity \| [\d.,]+ before, [\d.,]+ after", card)
        assert ("tokens without padding" in card) == (broken_off != "train")
    results = [json.loads((folder / "eval_results.json").read_text()) for folder in (tmp_path / "out", whole)]
    assert results[0]["eval_loss"] == results[1]["eval_loss"]


@pytest.mark.curves
def test_curves_missing_for_disk_space_are_drawn_when_run_again(train, tmp_path):
    """A full disk: the run ends well, says so, and links to no picture."""
    (tmp_path / "curves.png").symlink_to("/dev/full")
    code, printed, errors = train(tmp_path, "blocks")
    assert (code, errors) == (0, "")
    assert f"warning: {tmp_path / 'curves.png'} cannot be written (No space left on device), but the run" in printed
    assert not os.path.lexists(tmp_path / "curves.png")
    assert "curves.png" not in (tmp_path / "README.md").read_text()
    assert "Training is already complete" in train(tmp_path, "blocks")[1]
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert "curves.png" in (tmp_path / "README.md").read_text()


def test_model_card_missing_for_disk_space_is_written_when_run_again(train, tmp_path, monkeypatch):
    card = tmp_path / "README.md"

    def full(target, fsync=os.fsync):
        if Path(f"/proc/self/fd/{target}").resolve().name == "README.md.aside":
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        code, _, errors = train(tmp_path, "blocks")
    assert code == 2
    assert f"README.md cannot be written to {tmp_path} (No space left on device), but the run is complete" in errors
    assert not list(tmp_path.glob("README.md*"))
    assert "Training is already complete" in train(tmp_path, "blocks")[1]
    assert "trained from" in card.read_text()


def test_resuming_with_other_settings_is_an_error_that_lists_them(train, reference, tmp_path):
    shutil.copytree(reference("blocks"), tmp_path, dirs_exist_ok=True)
    before = sorted(tmp_path.rglob("*"))
    code, _, errors = train(tmp_path, "blocks", "--learning_rate", 0.02, "--mlm_probability", 0.3, "--seed", 4)
    assert code == 2
    changes = "learning_rate 0.02 (not 0.01), mlm_probability 0.3 (not 0.15), seed 4 (not 3)"
    assert f"checkpoint-12 was created with different settings (now {changes}): restore them, or pass" in errors
    assert "--overwrite_output_dir" in errors
    assert sorted(tmp_path.rglob("*")) == before
    # The trained weights stay the same.
    assert train(tmp_path, "blocks", "--save_total_limit", 5, "--logging_steps", 3, "--report_to", "none")[0] == 0


def test_resume_from_checkpoint_accepts_other_settings(train, reference, tmp_path):
    shutil.copytree(reference("blocks"), tmp_path, dirs_exist_ok=True)
    code, printed, _ = train(
        tmp_path, "blocks", "--max_steps", 14, "--resume_from_checkpoint", tmp_path / "checkpoint-12"
    )
    assert code == 0
    assert f"warning: setting changed since {tmp_path / 'checkpoint-12'}: max_steps 14 (not 12)" in printed
    assert losses(tmp_path)[-1][0] == 14


# The length of a run: the settings given now decide (huggingface/transformers#7198)


def epochs(count):
    return ("--max_steps", -1, "--num_train_epochs", count)


def rates(out) -> dict[int, float]:
    """The learning rate by step."""
    return {entry[0]: entry[-1] for entry in losses(out)}


@pytest.mark.parametrize("kind", ["blocks", "pairs", "budget"])
def test_resuming_with_more_epochs_follows_the_new_schedule(kind, train, reference, tmp_path):
    out = tmp_path / "out"
    argv = ("--save_strategy", "epoch", "--logging_steps", 1)
    whole = reference(kind, *epochs(3), *argv)
    assert train(out, kind, *epochs(1), *argv)[0] == 0
    steps = steps_in_epoch(out)
    code, printed, errors = train(out, kind, *epochs(3), *argv, "--resume_from_checkpoint", out / f"checkpoint-{steps}")
    assert (code, errors) == (0, "")
    assert f"Run length changed: 1 epoch before, 3 epochs now; {2 * steps} of {3 * steps} steps are left" in printed
    assert "Training is already complete" not in printed
    assert resumed(out) == [steps]
    assert losses(out)[-1][1] == pytest.approx(3, abs=0.4), "epochs of pairs differ a little in length"
    after = {step: rate for step, rate in rates(whole).items() if step > steps}
    assert {step: rate for step, rate in rates(out).items() if step > steps} == after
    assert yaml.safe_load((out / "recipe.yaml").read_text())["num_train_epochs"] == 3


CHANGED_LENGTHS = {
    "epochs to steps": (epochs(1), ("--max_steps", 15), "1 epoch before, 15 steps now"),
    "steps to epochs": (("--max_steps", 6), epochs(2.5), "6 steps before, 2.5 epochs now"),
    "hours to steps": (("--max_steps", -1, "--max_train_hours", 1e-5), ("--max_steps", 15), "hours before, 15 steps"),
    "steps to hours": (("--max_steps", 6), ("--max_steps", -1, "--max_train_hours", 1), "6 steps before, 1 hour now"),
}


@pytest.mark.parametrize("change", CHANGED_LENGTHS)
def test_resuming_with_a_length_of_another_unit_follows_its_schedule(change, train, reference, tmp_path, monkeypatch):
    before, now, message = CHANGED_LENGTHS[change]
    shutil.copytree(reference("blocks", *before, "--save_steps", 1, "--logging_steps", 1), tmp_path, dirs_exist_ok=True)
    done = max(checkpoints.list_checkpoints(tmp_path))
    steps = steps_in_epoch(tmp_path)
    argv = ("--logging_steps", 1, "--resume_from_checkpoint", tmp_path / f"checkpoint-{done}")
    if change == "steps to hours":
        kill_at(done + 2, monkeypatch, train, tmp_path, "blocks", *now, *argv, "--save_steps", 1)
        history = json.loads((tmp_path / f"checkpoint-{done + 1}" / "trainer_state.json").read_text())["log_history"]
        assert history[-1]["learning_rate"] == pytest.approx(0.01, rel=1e-2), "next to nothing of the hour is over"
        return
    code, printed, errors = train(tmp_path, "blocks", *now, *argv)
    assert (code, errors) == (0, "")
    total = math.ceil(2.5 * steps) if change == "steps to epochs" else 15
    assert message in printed
    assert f"{total - done} of {total} steps are left" in printed
    found = rates(tmp_path)
    assert max(found) == total
    for step in range(done + 1, total + 1):
        assert found[step] == pytest.approx(0.01 * (total - step + 1) / total)


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (epochs(1), "--num_train_epochs 1 is less than the 2 epochs of"),
        (("--max_steps", 5), "--max_steps 5 is less than"),
        (("--max_steps", -1, "--max_train_hours", 1e-9), "--max_train_hours 1e-09 is less than"),
    ],
)
def test_resuming_with_a_length_already_exceeded_is_an_error_before_writing(now, message, train, reference, tmp_path):
    shutil.copytree(reference("blocks", *epochs(2)), tmp_path, dirs_exist_ok=True)
    done = max(checkpoints.list_checkpoints(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, _, errors = train(tmp_path, "blocks", *now, "--resume_from_checkpoint", tmp_path / f"checkpoint-{done}")
    assert code == 2
    assert message in errors
    assert errors.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_settings_given_on_resuming_override_those_of_the_checkpoint(train, reference, tmp_path):
    """The optimizer's state brings its own rate and weight decay, the Trainer's its own intervals."""
    shutil.copytree(reference("blocks", "--max_steps", 6), tmp_path, dirs_exist_ok=True)
    argv = ("--learning_rate", 0.004, "--weight_decay", 0.5, "--adam_beta1", 0.5, "--max_steps", 12, "--save_steps", 5)
    checkpoint = tmp_path / "checkpoint-6"
    code, printed, _ = train(tmp_path, "blocks", *argv, "--logging_steps", 1, "--resume_from_checkpoint", checkpoint)
    assert code == 0
    assert f"warning: setting changed since {checkpoint}: learning_rate 0.004 (not 0.01)" in printed
    found = rates(tmp_path)
    assert [found[step] for step in range(7, 13)] == pytest.approx([0.004 * (13 - step) / 12 for step in range(7, 13)])
    assert list(checkpoints.list_checkpoints(tmp_path)) == [10, 12]
    optimizer = torch.load(tmp_path / "checkpoint-12" / "optimizer.pt", weights_only=True)
    assert {group["betas"] for group in optimizer["param_groups"]} == {(0.5, 0.999)}
    assert {group["weight_decay"] for group in optimizer["param_groups"]} == {0.5, 0.0}


def test_rate_of_embeddings_given_later_is_no_change_to_accept(train, reference, tmp_path):
    """The checkpoint's optimizer has no group for them: --resume_from_checkpoint would refuse it, too."""
    shutil.copytree(reference("blocks"), tmp_path, dirs_exist_ok=True)
    for argv, accepts in ((("--embedding_learning_rate", 0.004), False), (("--learning_rate", 0.004), True)):
        code, _, errors = train(tmp_path, "blocks", *argv)
        assert code == 2
        assert ("--resume_from_checkpoint" in errors) == accepts


def test_rates_given_on_resuming_are_those_of_their_groups(train, reference, tmp_path):
    """The logged rate stays the one of --learning_rate."""
    shutil.copytree(reference("muon"), tmp_path, dirs_exist_ok=True)
    checkpoint = tmp_path / "checkpoint-9"
    rates_of_now = ("--learning_rate", 0.1, "--muon_learning_rate", 0.2, "--embedding_learning_rate", 0.3)
    argv = (*rates_of_now, "--lr_scheduler_type", "constant", "--logging_steps", 1, "--weight_decay", 0.5)
    code, printed, _ = train(tmp_path, "muon", *argv, "--resume_from_checkpoint", checkpoint)
    assert code == 0
    assert f"warning: setting changed since {checkpoint}: embedding_learning_rate 0.3 (not 0.004)" in printed
    assert rates(tmp_path)[12] == 0.1
    groups = torch.load(tmp_path / "checkpoint-12" / "optimizer.pt", weights_only=True)["param_groups"]
    found = [(group["lr"], group["weight_decay"], group.get("muon")) for group in groups]
    assert found == [(0.1, 0.5, None), (0.1, 0.0, None), (0.3, 0.5, None), (0.2, 0.5, True)]


STOPPING = (
    *("--do_eval", "--validation_split_percentage", 30, "--eval_strategy", "steps", "--eval_steps", 3),
    *("--early_stopping_patience", 2, "--early_stopping_threshold", 0.5, "--max_steps", 40, "--logging_steps", 1),
)


def test_early_stopping_is_at_the_same_step_after_a_kill(train, tmp_path, monkeypatch):
    """The first evaluation of training is the best: no later one improves enough, and the second of them ends it."""
    code, printed, errors = train(tmp_path / "whole", "blocks", *STOPPING)
    assert (code, errors) == (0, "")
    assert "Stopped early at step 9: no improvement in 2 evaluations" in printed
    assert "Stopped early" not in train(tmp_path / "last", "blocks", *STOPPING, "--max_steps", 9)[1]
    kill_at(8, monkeypatch, train, tmp_path / "out", "blocks", *STOPPING)
    state = json.loads((tmp_path / "out" / "checkpoint-6" / "trainer_state.json").read_text())
    saved = state["stateful_callbacks"]["EarlyStoppingCallback"]
    assert saved["attributes"] == {"early_stopping_patience_counter": 1}
    assert "Stopped early at step 9" in train(tmp_path / "out", "blocks", *STOPPING)[1]
    assert_same(tmp_path / "out", tmp_path / "whole")
    code, printed, _ = train(tmp_path / "out", "blocks", *STOPPING)
    assert code == 0
    assert "Training is already complete" in printed
    # With more patience, the run resumes from there.
    patient = ("--early_stopping_patience", 3, "--resume_from_checkpoint", tmp_path / "out" / "checkpoint-9")
    assert "Stopped early at step 12" in train(tmp_path / "out", "blocks", *STOPPING, *patient)[1]


def test_epoch_ending_in_a_short_step_counts_its_tokens_without_a_warning(train, tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(logging.getLogger("transformers.trainer"), "warning", lambda *args: logged.append(args))
    argv = ("--gradient_accumulation_steps", 5, "--include_num_input_tokens_seen", "true")
    assert train(tmp_path, "lines", *argv)[::2] == (0, "")
    assert logged == []
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert state["num_input_tokens_seen"] > 0


def test_epoch_log_is_exact_after_a_kill_at_its_last_step(train, reference, tmp_path):
    """That step is saved before the end of the epoch, at which the Trainer logs."""
    argv = ("--logging_strategy", "epoch", "--save_steps", 1, "--save_total_limit", 20)
    whole = reference("blocks", *argv)
    steps = steps_in_epoch(whole)
    shutil.copytree(whole / f"checkpoint-{steps}", tmp_path / "out" / f"checkpoint-{steps}")
    assert train(tmp_path / "out", "blocks", *argv)[0] == 0
    assert [entry[0] for entry in losses(whole)] == [1, *range(steps, 12, steps), 12]
    assert_same(tmp_path / "out", whole)


def test_other_metric_for_best_model_ignores_the_earlier_best(train, tmp_path):
    """No accuracy is above a loss of 6: the run would end as one that no longer improves."""
    argv = ("--do_eval", "--eval_strategy", "steps", "--eval_steps", 3, "--metric_for_best_model")
    assert train(tmp_path, "blocks", *argv, "loss")[0] == 0
    shutil.rmtree(tmp_path / "checkpoint-12")
    code, printed, _ = train(tmp_path, "blocks", *argv, "accuracy")
    assert code == 0
    assert f"warning: {IGNORED_BEST}" in printed
    state = json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())
    accuracies = [entry["eval_accuracy"] for entry in state["log_history"] if "eval_loss" in entry]
    assert state["best_metric"] == accuracies[-1]


def test_delayed_evaluation_is_not_made_up_on_resuming(train, reference, tmp_path):
    """An additional evaluation would count for early stopping."""
    argv = ("--do_eval", "--eval_strategy", "epoch", "--eval_delay", 2, "--save_steps", 1, "--save_total_limit", 20)
    whole = reference("blocks", *argv, "--max_steps", 20)
    steps = steps_in_epoch(whole)
    for epoch, due in ((1, False), (2, True)):
        assert is_evaluated(whole, epoch * steps) == due


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (("--config_overrides", MODEL.replace("16", "24")), "does not fit this run"),
        (("--optim", "adafactor"), "has the state of another optimizer: optim adafactor (not adamw_torch_fused)"),
        (("--optim", "muon"), "has the state of another optimizer: optim muon (not adamw_torch_fused)"),
        (
            ("--embedding_learning_rate", 0.1),
            "has the state of another optimizer: embedding_learning_rate 0.1 (not None): drop the change",
        ),
        (("--optim_args", "momentum=0.5"), "has the state of another optimizer: optim_args momentum=0.5 (not None)"),
    ],
)
def test_checkpoint_of_another_model_or_optimizer_is_an_error(other, message, train, reference, tmp_path):
    shutil.copytree(reference("blocks"), tmp_path, dirs_exist_ok=True)
    checkpoint = tmp_path / "checkpoint-9"
    code, _, errors = train(tmp_path, "blocks", *other, "--resume_from_checkpoint", checkpoint)
    assert code == 2
    assert f"{checkpoint} {message}" in errors


def test_reduce_lr_on_plateau_resumes_with_other_settings_than_the_rate(train, tmp_path):
    """Otherwise the old schedule's last rate, 0, would stay, and a rate given now would be ignored."""
    plateau = ("--do_eval", "--eval_strategy", "epoch", "--lr_scheduler_type", "reduce_lr_on_plateau")
    linear, out = tmp_path / "linear", tmp_path / "out"
    argv = ("--max_steps", 15, "--resume_from_checkpoint")
    train(linear, "blocks", "--do_eval")
    train(out, "blocks", *plateau)
    for folder, *settings in ((linear, *plateau), (out, *plateau, "--learning_rate", 0.001), (out, "--do_eval")):
        code, _, errors = train(folder, "blocks", *settings, *argv, folder / "checkpoint-12")
        assert code == 2
        assert "the state of the reduce_lr_on_plateau schedule cannot be resumed with l" in errors
        assert errors.count("\n") == 1
    assert train(out, "blocks", *plateau, "--weight_decay", 0.5, *argv, out / "checkpoint-12")[0] == 0
    optimizer = torch.load(out / "checkpoint-15" / "optimizer.pt", weights_only=True)
    assert {group["weight_decay"] for group in optimizer["param_groups"]} == {0.5, 0.0}


def test_model_only_checkpoint_cannot_be_resumed(train, reference, tmp_path):
    shutil.copytree(reference("blocks", "--save_only_model"), tmp_path, dirs_exist_ok=True)
    code, _, errors = train(tmp_path, "blocks", "--save_only_model")
    assert code == 2
    assert f"{tmp_path / 'checkpoint-12'} was saved with --save_only_model and cannot be resumed" in errors


def test_resuming_with_another_text_is_an_error(train, reference, text, tmp_path):
    shutil.copytree(reference("blocks"), tmp_path / "out")
    text.write_text(text.read_text() + "One more sentence about nothing at all.\n")
    code, _, errors = train(tmp_path / "out", "blocks")
    assert code == 2
    assert "the training text has changed since the checkpoint" in errors


@pytest.mark.parametrize("kind", ["blocks", "stream"])
def test_resuming_with_another_text_of_equal_size_is_an_error_that_names_the_file(
    kind, train, reference, text, tmp_path
):
    """Counts of examples, tokens, files and bytes are the same."""
    shutil.copytree(reference(kind), tmp_path / "out")
    before = (tmp_path / "out" / "trainer_state.json").read_bytes()
    text.write_text("\n".join(reversed(text.read_text().splitlines())) + "\n")
    code, _, errors = train(tmp_path / "out", kind)
    assert code == 2
    assert re.fullmatch(
        rf"error: the training text has changed since the checkpoint: {text} \(last changed [-\d]+ [:\d]+\) differs: "
        "restore it, or start over with --overwrite_output_dir\n",
        errors,
    )
    assert (tmp_path / "out" / "trainer_state.json").read_bytes() == before
    assert train(tmp_path / "out", kind, "--overwrite_output_dir")[0] == 0


@pytest.mark.parametrize("kind", ["blocks", "stream"])
def test_resuming_accepts_the_same_text_at_another_path(kind, train, reference, text, tmp_path):
    whole = reference(kind)
    train(tmp_path / "out", kind, "--max_steps", 6)
    copy = shutil.copy(text, tmp_path / "copy.txt")
    os.utime(copy, (1, 1))
    argv = ("--train_file", copy, "--resume_from_checkpoint", tmp_path / "out" / "checkpoint-6")
    code, printed, errors = train(tmp_path / "out", kind, *argv)
    assert (code, errors) == (0, "")
    assert f"warning: setting changed since {tmp_path / 'out' / 'checkpoint-6'}: max_steps 12 (not 6)" in printed
    assert resumed(tmp_path / "out") == [6]
    (last, *_), (expected, *_) = losses(tmp_path / "out")[-1:], losses(whole)[-1:]
    assert last[0] == expected[0] == 12


def test_checkpoint_without_text_digests_is_resumed(train, reference, tmp_path):
    """Earlier versions wrote such checkpoints."""
    whole = reference("blocks")
    shutil.copytree(whole, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "checkpoint-12")
    checkpoint = tmp_path / "out" / "checkpoint-9"
    progress = json.loads((checkpoint / "progress.json").read_text())
    assert progress.pop("fingerprints")
    (checkpoint / "progress.json").write_text(json.dumps(progress))
    write_sums(checkpoint)
    code, printed, _ = train(tmp_path / "out", "blocks")
    assert code == 0
    assert f"Resuming from {checkpoint}" in printed
    assert_same(tmp_path / "out", whole)


def test_checkpoint_of_another_version_is_an_error(train, reference, tmp_path):
    shutil.copytree(reference("blocks"), tmp_path / "out")
    checkpoint = tmp_path / "out" / "checkpoint-12"
    progress = json.loads((checkpoint / "progress.json").read_text())
    progress |= {"epoch": progress.pop("stream")["epoch"]}
    (checkpoint / "progress.json").write_text(json.dumps(progress))
    write_sums(checkpoint)
    code, _, errors = train(tmp_path / "out", "blocks")
    assert code == 2
    assert re.fullmatch(
        rf"error: {checkpoint} was saved by another version of these scripts: resume it with that version, .*\n", errors
    )


def test_resuming_with_another_validation_text_warns_and_ignores_the_earlier_best(train, tmp_path):
    """The loss of the text before is lower than any of the text now."""
    validation = tmp_path / "validation.txt"
    validation.write_text("The stars are far away.\n" * 20)
    argv = ("--do_eval", "--validation_file", validation, "--eval_strategy", "steps", "--eval_steps", 3)
    argv = (*argv, "--metric_for_best_model", "accuracy", "--save_total_limit", 4)
    assert train(tmp_path / "out", "blocks", *argv)[0] == 0
    shutil.rmtree(tmp_path / "out" / "checkpoint-12")
    state_file = tmp_path / "out" / "checkpoint-9" / "trainer_state.json"
    state = json.loads(state_file.read_text())
    state["best_metric"], state["best_global_step"] = 1.0, 3
    state["log_history"].append({"step": 3, "epoch": 1, "eval_accuracy": 1.0})
    state_file.write_text(json.dumps(state))
    write_sums(state_file.parent)
    validation.write_text("The moons are far away.\n" * 20)
    code, printed, errors = train(tmp_path / "out", "blocks", *argv)
    assert (code, errors) == (0, "")
    assert f"warning: the validation text has changed since the checkpoint: {validation} (last changed" in printed
    assert f"warning: {IGNORED_BEST}" in printed
    state = json.loads((tmp_path / "out" / "checkpoint-12" / "trainer_state.json").read_text())
    assert (state["best_global_step"], state["best_metric"] < 1.0) == (12, True)


def test_resuming_with_another_validation_text_only_warns_without_best_model(train, tmp_path):
    validation = tmp_path / "validation.txt"
    argv = ("--do_eval", "--validation_file", validation, "--eval_strategy", "steps", "--eval_steps", 9)
    for word in ("stars", "moons"):
        validation.write_text(f"The {word} are far away.\n" * 20)
        code, printed, _ = train(tmp_path / "out", "blocks", *argv)
        assert code == 0
        shutil.rmtree(tmp_path / "out" / "checkpoint-12")
    assert printed.count("warning: ") == printed.count("warning: the validation text has changed since the che") == 1


@pytest.mark.parametrize("suffix", slow_but(["", ".gz"], ["", ".gz", ".zst"]))
def test_text_with_a_non_utf8_name_is_trained_on_and_resumed(suffix, train, text, tmp_path):
    name = os.fsdecode(bytes(tmp_path) + b"/n\xff.txt" + suffix.encode())
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    Path(name).write_bytes(compress(text.read_bytes()))
    argv = ("--train_file", name) if suffix else ("--train_file", name, "--do_eval", "--validation_file", name)
    for message in ("Training text: 6 documents", "Resuming from"):
        code, printed, errors = train(tmp_path / "out", "blocks", *argv)
        assert (code, errors) == (0, "")
        assert message in printed
    assert "n\\xff.txt" in (tmp_path / "out" / "README.md").read_text()


def test_data_folder_with_symlink_loop_and_own_outputs_is_resumed(train, text, tmp_path):
    """The second start finds its own tokenizer.json, checkpoints and cache."""
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(text, data / "text.txt")
    (data / "loop").symlink_to(data)
    argv = ("--train_file", data, "--cache_dir", data / "cache")
    assert train(tmp_path / "whole", "blocks", *argv)[0] == 0
    assert train(data / "out", "blocks", *argv)[0] == 0
    shutil.rmtree(data / "out" / "checkpoint-12")
    code, printed, errors = train(data / "out", "blocks", *argv)
    assert (code, errors) == (0, "")
    for name in ("cache", "out"):
        assert f"warning: --train_file skips {data / name}, an output folder of these scripts" in printed
    assert f"Resuming from {data / 'out' / 'checkpoint-9'}" in printed
    assert_same(data / "out", tmp_path / "whole")


# Signals


def wait_for(path, condition, process):
    """Wait until a file's text meets the condition."""
    for _ in range(3000):
        if path.exists() and condition(path.read_text()):
            return
        assert process.is_alive(), path.read_text()
        time.sleep(0.01)
    raise AssertionError(path.read_text())


def command(text, out, *argv):
    """Of a run of 40 steps of blocks, as a user's."""
    return (
        "run_mlm", *SCRATCH, "--train_file", text, "--max_seq_length", 32, "--do_train", "--max_steps", 40,
        "--per_device_train_batch_size", 8, "--learning_rate", 0.01, "--save_steps", 8, "--logging_steps", 1,
        "--output_dir", out, *argv,
    )  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Run ``command`` in its own process."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    process = start(*command(SAMPLE, folder / "out"), log=folder / "log")
    process.join()
    assert process.exitcode == 0, (folder / "log").read_text()
    return folder / "out"


CODES = [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)]


@pytest.mark.parametrize(("number", "code"), slow_but(CODES[:1], CODES))
def test_signal_takes_effect_after_the_step_and_saves_a_checkpoint(number, code, uninterrupted, tmp_path):
    log, out = tmp_path / "log", tmp_path / "out"
    process = start(*command(SAMPLE, out), log=log)
    wait_for(log, lambda printed: printed.count("\ntrain ") > 4, process)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == code
    printed = log.read_text()
    assert "Traceback" not in printed
    stopped = re.search(
        r"Stopped by a signal after step (\d+): checkpoint saved; run the same command to resume", printed
    )
    assert list(checkpoints.list_checkpoints(str(out)))[-1] == int(stopped[1]) < 40
    process = start(*command(SAMPLE, out), log=log)
    process.join()
    assert process.exitcode == 0
    assert f"Resuming from {out / f'checkpoint-{stopped[1]}'}" in log.read_text()
    assert_same(out, uninterrupted)


def test_persistent_workers_end_with_the_run(tmp_path):
    process = start(
        "run_mlm", *SCRATCH, "--train_file", SAMPLE, "--max_seq_length", 32, "--do_train", "--max_steps", 2,
        "--dataloader_num_workers", 1, "--dataloader_persistent_workers", "--output_dir", tmp_path / "out",
        log=tmp_path / "log",
    )  # fmt: skip
    process.join(60)
    hangs = process.exitcode is None
    process.kill()
    assert not hangs
    assert process.exitcode == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_signal_before_training_ends_the_process_at_once(number, code, tmp_path):
    """Here it waits for another process that prepares the same text."""
    log = tmp_path / "log"
    process = start(*command(SAMPLE, tmp_path / "out", "--cache_dir", tmp_path), log=log)
    lock = tmp_path / "cloze"
    wait_for(log, lambda printed: True, process)
    for _ in range(3000):
        if lock.exists():
            break
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join()
    assert (process.exitcode, log.read_text().count("Traceback")) == (code, 0)
    assert not list((tmp_path / "out").glob("checkpoint-*"))


@pytest.mark.slow
def test_five_random_kills_resume_exactly(uninterrupted, tmp_path):
    """Each start resumes from the last checkpoint; benchmarks/kill_resume.py repeats this fifty times."""
    rng, log, out = random.Random(0), tmp_path / "log", tmp_path / "out"
    argv = command(SAMPLE, out, "--dataloader_num_workers", 1)
    for kill in range(5):
        process = start(*argv, log=log)
        if kill % 2:
            while process.is_alive() and not (out / checkpoints.STAGING_DIR).exists():
                time.sleep(0.001)
        else:
            begun = log.read_text().count("\ntrain ") if log.exists() else 0
            steps = begun + rng.randrange(1, 6)
            wait_for(log, lambda printed, steps=steps: printed.count("\ntrain ") >= steps, process)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    process = start(*argv, log=log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    assert_same(out, uninterrupted)


def signal_before(number, monkeypatch, owner, name, condition=lambda *args: True):
    """Send the process a signal in the first call of a function whose arguments fulfil the condition."""
    original, sent = getattr(owner, name), []

    def signalled(*args, **kwargs):
        if not sent and condition(*args):
            sent.append(number)
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, signalled)
    return sent


def entries(out) -> list[dict]:
    """Return everything logged except times and resumed steps."""
    timed = ("runtime", "per_second", "mfu", "total_flos")
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [
        {name: value for name, value in entry.items() if not name.endswith(timed)}
        for entry in history
        if "resumed" not in entry
    ]


EVALUATED = (
    *("--do_eval", "--validation_split_percentage", 30, "--per_device_eval_batch_size", 1),
    *("--logging_steps", 1),
)
STEPS = ("--eval_strategy", "steps", "--eval_steps", 3, "--metric_for_best_model", "loss")
IN_TRAINING = {
    "the one that ends training early": (
        ("blocks", *STEPS, "--load_best_model_at_end", *STOPPING[-8:], "--max_steps", 12),
        *(9, signal.SIGTERM, 75),
    ),
    "the best so far": (("both", *STEPS, "--load_best_model_at_end"), *(6, signal.SIGINT, 130)),
    "of averaged weights": (("averaged", *STEPS, "--load_best_model_at_end"), *(6, signal.SIGTERM, 75)),
    "of an epoch, for the learning rate": (
        ("pairs", "--eval_strategy", "epoch", "--lr_scheduler_type", "reduce_lr_on_plateau", "--save_strategy", "no",
         "--lr_scheduler_kwargs", '{"patience": 0, "threshold": 0.5}', "--metric_for_best_model", "loss"),
        *(3, signal.SIGUSR1, 75),
    ),
    "where the best are saved": (("both", *STEPS, "--save_strategy", "best"), *(3, signal.SIGTERM, 75)),
    "where models alone are saved": (("lines", *STEPS, "--save_only_model"), *(3, signal.SIGTERM, 75)),
}  # fmt: skip


@pytest.mark.parametrize("case", IN_TRAINING)
def test_signal_stops_an_evaluation_that_is_then_repeated(case, train, tmp_path, monkeypatch):
    """And all that follows from it, as the best model, early stopping and a learning rate, is as without the signal."""
    argv, step, number, code = IN_TRAINING[case]
    argv, out, whole = (*argv, *EVALUATED, "--cache_dir", tmp_path), tmp_path / "out", tmp_path / "whole"
    assert train(whole, *argv)[0] == 0
    batches = []

    def in_evaluation(trainer, *args):
        due = trainer.is_in_train and trainer.state.global_step >= step
        batches.extend([trainer.state.global_step] * due)
        return len(batches) == 2

    with monkeypatch.context() as patched:
        signal_before(number, patched, PretrainingTrainer, "prediction_step", in_evaluation)
        stopped = train(out, *argv)
    assert (stopped[0], stopped[2]) == (code, "")
    assert len(batches) == 2, "it ended at once"
    assert (
        f"Stopped by a signal after step {batches[0]}: checkpoint saved; run the same command to resume" in stopped[1]
    )
    assert json.loads((out / f"checkpoint-{batches[0]}" / "progress.json").read_text())["evaluation_due"]
    assert train(out, *argv)[::2] == (0, "")
    assert resumed(out) in ([batches[0]], [])
    assert_same(out, whole)
    assert entries(out) == entries(whole)
    states = [json.loads((folder / "trainer_state.json").read_text()) for folder in (out, whole)]
    assert states[0]["best_global_step"] == states[1]["best_global_step"]


MOMENTS = {
    "the evaluation before training": (PretrainingTrainer, "prediction_step"),
    "the last step": (PretrainingTrainer, "compute_loss"),
    "the last checkpoint": (checkpoints, "complete"),
    "the model": (checkpoints, "put_in_place"),
    "the evaluation after training": (PretrainingTrainer, "prediction_step"),
    "the prediction": (fill_mask, "save_predictions"),
    "the report": (report, "write_model_card"),
}
AFTER = list(MOMENTS)[3:]
SAVING = {"checkpoints": (), "none": ("--save_strategy", "no"), "none that counts": ("--overwrite_output_dir",)}
NEAR_THE_END = [
    *((moment, "checkpoints", 75) for moment in MOMENTS),
    ("the last step", "none", 75),
    # A second run would start over.
    *((moment, "none", 0) for moment in AFTER),
    ("the evaluation after training", "none that counts", 0),
]
QUICK_NEAR_THE_END = NEAR_THE_END[:8] + NEAR_THE_END[-2:]


@pytest.mark.parametrize(("moment", "saving", "expected"), slow_but(QUICK_NEAR_THE_END, NEAR_THE_END))
def test_signal_near_the_end_loses_nothing(moment, saving, expected, train, tmp_path, monkeypatch):
    """The exit code is 75 if a second run completes the work, and 0 if the run continued to its end."""
    (tmp_path / "lines.txt").write_text("The [MASK] is here.\n")
    argv = ("blocks", "--max_steps", 2, *EVALUATED, "--cache_dir", tmp_path, *SAVING[saving])
    argv = (*argv, "--do_predict", "--test_file", tmp_path / "lines.txt")

    def at_the_moment(trainer, *args):
        if moment == "the evaluation after training":
            return not trainer.is_in_train
        return moment != "the last step" or trainer.state.global_step == 1

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        sent = signal_before(signal.SIGTERM, patched, *MOMENTS[moment], at_the_moment)
        code, printed, errors = train(out, *argv)
    assert (sent, code, errors) == ([signal.SIGTERM], expected, "")
    assert ("continuing to the end" in printed) == (expected == 0 and moment == "the model")
    if code == 75:
        assert not (out / "README.md").exists()
        code, printed, errors = train(out, *argv)
        assert (code, errors) == (0, "")
        assert ("Training is already complete" in printed) == (moment != "the evaluation before training")
    for name in ("model.safetensors", "eval_results.json", "train_results.json", "predictions.jsonl", "README.md"):
        assert (out / name).stat().st_size > 0
    assert not list(out.rglob("*.aside"))
    assert not (out / checkpoints.STAGING_DIR).exists()


@pytest.mark.parametrize("moment", ["the evaluation after training", "the report"])
def test_ctrl_c_after_the_last_step_ends_the_run(moment, train, tmp_path, monkeypatch):
    argv = ("blocks", "--max_steps", 1, *EVALUATED, "--cache_dir", tmp_path, "--save_strategy", "no")
    after = lambda trainer, *args: moment == "the report" or not trainer.is_in_train  # noqa: E731
    with monkeypatch.context() as patched:
        signal_before(signal.SIGINT, patched, *MOMENTS[moment], after)
        assert train(tmp_path / "out", *argv)[0] == 130
    assert load_file(tmp_path / "out" / "model.safetensors")


def test_half_replaced_model_is_saved_again(train, reference, tmp_path, monkeypatch):
    """Of a run that is resumed for longer: the model from before is not mixed with the new one."""
    shutil.copytree(reference("blocks", "--max_steps", 6), tmp_path / "out")
    argv = ("blocks", "--resume_from_checkpoint", tmp_path / "out" / "checkpoint-6")
    replace, calls = os.replace, []

    def dying(source, target):
        calls.extend([target] * (source.parent.name == "model"))
        if len(calls) == 2:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", dying)
        with pytest.raises(Killed):
            train(tmp_path / "out", *argv)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert train(tmp_path / "out", "blocks")[::2] == (0, "")
    for name, tensor in load_file(tmp_path / "out" / "checkpoint-12" / "model.safetensors").items():
        assert torch.equal(tensor, load_file(tmp_path / "out" / "model.safetensors")[name])


def test_full_disk_at_the_model_keeps_the_earlier_model(train, reference, tmp_path, monkeypatch):
    shutil.copytree(reference("blocks", "--max_steps", 3), tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "model.safetensors").read_bytes()
    save = PretrainingTrainer._save

    def full(self, folder, *args):
        save(self, folder, *args)
        if folder.endswith("model"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(PretrainingTrainer, "_save", full)
        code, _, errors = train(tmp_path, "blocks", "--resume_from_checkpoint", tmp_path / "checkpoint-3")
    assert code == 2
    assert re.fullmatch(
        r"error: .*model cannot be written .*No space left.*: free disk space and run again; .*\n", errors
    )
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert not (tmp_path / checkpoints.STAGING_DIR / "model").exists()
    assert train(tmp_path, "blocks")[0] == 0


# The disk


def test_full_disk_keeps_the_earlier_checkpoints(train, reference, tmp_path):
    """A limit on the size of files simulates a full disk."""
    whole = reference("blocks")
    checkpoint = whole / "checkpoint-12"
    sizes = {path.name: path.stat().st_size for path in checkpoint.iterdir()}
    assert max(sizes, key=sizes.get) == "optimizer.pt"
    trainer_save, limits = PretrainingTrainer.write_state, resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(self, progress, folder):
        if progress.step == 9:
            resource.setrlimit(resource.RLIMIT_FSIZE, (sizes["optimizer.pt"] // 2, limits[1]))
        trainer_save(self, progress, folder)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PretrainingTrainer, "write_state", full)
        try:
            code, _, errors = train(tmp_path / "out", "blocks")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert re.search(
        r"checkpoint-9 cannot be written .*: about 0\.\d MB are needed, [\d.]+ [GM]B are free: free disk space",
        errors,
    )
    assert list(checkpoints.list_checkpoints(str(tmp_path / "out"))) == [3, 6]
    assert train(tmp_path / "out", "blocks")[0] == 0
    assert_same(tmp_path / "out", whole)


@contextmanager
def full_disk():
    """Let no file grow."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_full_disk_after_training_loses_no_result(train, reference, tmp_path):
    """All is evaluated and logged, the exit code says that files are missing, and the same command writes those."""
    argv = ("--do_eval", "--validation_split_percentage", 30)
    whole = reference("blocks", *argv)
    reports = ["README.md", "all_results.json", "eval_results.json", "train_results.json", "trainer_state.json"]
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patched:
        save = PretrainingTrainer.save_model

        def save_and_fill(self, output_dir=None, _internal_call=False):
            save(self, output_dir, _internal_call)
            if output_dir is None:
                stack.enter_context(full_disk())

        patched.setattr(PretrainingTrainer, "save_model", save_and_fill)
        code, printed, errors = train(tmp_path / "out", "blocks", *argv)
    assert code == 2
    assert errors == (
        "error: train_results.json, all_results.json, eval_results.json, trainer_state.json, README.md cannot be "
        f"written to {tmp_path / 'out'} (File too large), but the run is complete: free disk space and run again "
        "without --overwrite_output_dir to write them\n"
    )
    assert "Training loss" in printed
    assert not {path.name for path in (tmp_path / "out").iterdir()} & set(reports)
    code, printed, errors = train(tmp_path / "out", "blocks", *argv)
    assert (code, errors) == (0, "")
    assert "Training is already complete" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} >= set(reports)
    assert_same(tmp_path / "out", whole)
    results = [json.loads((folder / "all_results.json").read_text()) for folder in (tmp_path / "out", whole)]
    assert [results[0][name] for name in ("train_loss", "eval_loss")] == [
        results[1][name] for name in ("train_loss", "eval_loss")
    ]


@pytest.mark.parametrize(
    ("owner", "writes", "name"),
    [
        (Trainer, "save_metrics", "all_results.json"),
        (Trainer, "save_metrics", "train_results.json"),
        (report, "write_model_card", "README.md"),
    ],
)
def test_half_written_report_is_deleted_and_written_when_run_again(owner, writes, name, train, tmp_path, monkeypatch):
    out, original = tmp_path / "out", getattr(owner, writes)

    def fail(*args, **kwargs):
        original(*args, **kwargs)
        (out / name).write_text((out / name).read_text()[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(owner, writes, fail)
        code, _, errors = train(out, "blocks")
    assert code == 2
    assert re.search(
        rf"{name}.* cannot be written to {out} \(No space left on device\), but the run is complete", errors
    )
    assert errors.count("\n") == 1
    assert not (out / name).exists()
    assert "Training is already complete" in train(out, "blocks")[1]
    assert (out / name).exists()
    results = json.loads((out / "all_results.json").read_text())
    assert results["train_loss"] > 0


def test_full_disk_at_the_start_is_one_line(train, tmp_path):
    train(tmp_path / "cached", "blocks", "--save_strategy", "no")
    with full_disk():
        code, _, errors = train(tmp_path / "out", "blocks")
    assert code == 2
    assert re.search(
        r"recipe\.yaml cannot be written \(.*File too large.*\): about .* free disk space and run again", errors
    )
    assert errors.count("\n") == 1


@pytest.mark.parametrize(("change", "workers"), [("deleted", 1), ("cut", 0)])
def test_streamed_file_that_disappears_is_one_line(change, workers, train, text, tmp_path, monkeypatch):
    """At the next epoch, or where what is read of it ends; the checkpoints stay."""
    compute_loss = PretrainingTrainer.compute_loss

    def disturb(self, *args, **kwargs):
        if self.state.global_step == 4:
            text.unlink(missing_ok=True) if change == "deleted" else os.truncate(text, 700)
        return compute_loss(self, *args, **kwargs)

    monkeypatch.setattr(PretrainingTrainer, "compute_loss", disturb)
    argv = ("--max_steps", 60, "--save_total_limit", 30, "--dataloader_num_workers", workers)
    code, _, errors = train(tmp_path / "out", "stream", *argv)
    assert code == 2
    problem = "cannot be read after line 0: " if change == "deleted" else "changed during the run: restore it"
    assert errors.startswith(f"error: {text} {problem}")
    assert errors.count("\n") == 1
    steps = list(checkpoints.list_checkpoints(str(tmp_path / "out")))
    assert steps[:2] == [3, 6]
    assert not any(map(find_damage, (tmp_path / "out").glob("checkpoint-*")))


# NaN and infinite losses


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_loss_stops_the_run_unsaved(value, train, tmp_path, monkeypatch):
    """The step would be saved but not logged; no checkpoint of it is written."""
    compute_loss = PretrainingTrainer.score

    def spoil(self, *args, **kwargs):
        scores = compute_loss(self, *args, **kwargs)
        if self.state.global_step == 5:
            return {prefix: {name: each * value for name, each in own.items()} for prefix, own in scores.items()}
        return scores

    monkeypatch.setattr(PretrainingTrainer, "score", spoil)
    code, _, errors = train(tmp_path, "lines")
    assert code == 2
    assert "NaN or infinite loss at step 6" in errors
    assert list(checkpoints.list_checkpoints(str(tmp_path))) == [3]


# Wall-clock budget


# Flags of schedules, and their rates by the share that is done: warm-up in the first tenth, and down to the end.
DECAY = '{"num_decay_steps": 0.4, "decay_type": "linear"}'
SCHEDULES = {
    "linear": ((), lambda share: min(share / 0.1, (1 - share) / 0.9)),
    "warmup_stable_decay": (("--lr_scheduler_kwargs", DECAY), lambda share: min(share / 0.1, 1, (1 - share) / 0.4)),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_max_train_hours_ends_training_and_its_schedule(schedule, train, tmp_path, monkeypatch):
    """A step takes 10 s of 125: thirteen steps, restarts included."""
    clock, compute_loss = SimpleNamespace(now=0.0), PretrainingTrainer.compute_loss

    def slow(self, *args, **kwargs):
        clock.now += 10
        return compute_loss(self, *args, **kwargs)

    monkeypatch.setattr(interruption, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(PretrainingTrainer, "compute_loss", slow)
    argv = ("--max_steps", -1, "--max_train_hours", 125 / 3600, "--logging_steps", 1, "--warmup_steps", 0.1)
    flags, rate = SCHEDULES[schedule]
    argv += ("--lr_scheduler_type", schedule, *flags)
    kill_at(9, monkeypatch, train, tmp_path, "blocks", *argv)
    clock.now += 10_000
    code, printed, errors = train(tmp_path, "blocks", *argv)
    assert (code, errors) == (0, "")
    assert "Resuming from" in printed
    entries = losses(tmp_path)
    assert [entry[0] for entry in entries] == list(range(1, 14))
    rates = [0.01 * rate(10 * step / 125) for step in range(13)]
    assert [entry[-1] for entry in entries] == pytest.approx(rates)
    scheduler = torch.load(tmp_path / "checkpoint-13" / "scheduler.pt", weights_only=True)
    assert scheduler["_last_lr"] == [0.0, 0.0]
    results = json.loads((tmp_path / "train_results.json").read_text())
    # Since it went on from the sixth, seven steps of four examples, but for one of the two that an epoch leaves.
    assert results["train_samples_per_second"] == pytest.approx(26 / results["train_runtime"], rel=1e-2)
    assert "Training is already complete" in train(tmp_path, "blocks", *argv)[1]


def test_evaluation_that_is_made_up_takes_of_max_train_hours(train, tmp_path, monkeypatch):
    """A batch of an evaluation takes 10 s, and everything else no time."""
    clock, predict, batches = SimpleNamespace(now=0.0), PretrainingTrainer.prediction_step, []

    def slow(trainer, *args, **kwargs):
        clock.now += 10
        batches.append(trainer.state.global_step)
        return predict(trainer, *args, **kwargs)

    monkeypatch.setattr(interruption, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(PretrainingTrainer, "prediction_step", slow)
    argv = ("blocks", *STEPS, *EVALUATED, "--cache_dir", tmp_path)
    with monkeypatch.context() as patched:
        signal_before(signal.SIGTERM, patched, PretrainingTrainer, "prediction_step", lambda *_: batches.count(3) == 1)
        assert train(tmp_path / "out", *argv)[0] == 75
    stopped_after = batches.count(3)
    assert train(tmp_path / "out", *argv)[0] == 0
    batches_of_one = batches.count(3) - stopped_after
    seconds = json.loads((tmp_path / "out" / "checkpoint-12" / "progress.json").read_text())["seconds"]
    # That before training, the one that was stopped, and those after 3, 6, 9 and 12 steps.
    assert seconds == 10 * (stopped_after + 5 * batches_of_one)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--max_train_hours", 0), "--max_train_hours 0.0 is not positive"),
        (("--max_train_hours", 1, "--max_steps", 5), "--max_train_hours and --max_steps exclude each other"),
        (("--max_train_hours", 1, "--max_steps", -1, "--warmup_steps", 100), "give a fraction, such as 0.06"),
        (("--max_train_hours", 1, "--max_steps", -1, "--save_steps", 0.1), "give a number of steps"),
    ],
)
def test_max_train_hours_refuses_conflicting_settings(argv, message, train, tmp_path):
    code, _, errors = train(tmp_path, "blocks", *argv)
    assert code == 2
    assert message in errors
