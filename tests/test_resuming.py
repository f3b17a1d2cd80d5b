"""Runs that are broken off and gone on with: killed, stopped by signals, out of disk, out of time."""

import json
import random
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from conftest import SAMPLE
from processes import start
from safetensors.torch import load_file

from cloze.batching import EpochExamples
from cloze.trainer import PretrainingTrainer

# With dropout, whose random numbers have to go on as well.
MODEL = "hidden_size=16,num_hidden_layers=2,num_attention_heads=2,intermediate_size=32,max_position_embeddings=66"
SCRATCH = ("--model_type", "bert", "--config_overrides", MODEL, "--vocab_size", 600)

KINDS = {
    "blocks": ("run_mlm",),
    "lines": ("run_mlm", "--line_by_line", "--gradient_accumulation_steps", 2),
    "pairs": ("run_nsp", "--sentence_per_line", "--gradient_accumulation_steps", 3),
    "both": ("run_pretraining", "--sentence_per_line", "--pair_strategy", "sentence"),
    "budget": ("run_mlm", "--line_by_line", "--max_tokens_per_batch", 128),
}


class Killed(BaseException):
    """Stands for kill -9 where the process is to live on: no handler of the scripts knows it."""


@pytest.fixture
def scripts(run_mlm_script, run_nsp_script, run_pretraining_script):
    return {"run_mlm": run_mlm_script, "run_nsp": run_nsp_script, "run_pretraining": run_pretraining_script}


@pytest.fixture
def text(texts, tmp_path):
    """Few enough sentences that 12 steps are more than an epoch."""
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join("\n".join(texts[i : i + 6]) for i in range(0, 36, 6)))
    return path


@pytest.fixture
def train(scripts, text):
    """``train(out, kind, ...)`` gives exit code, output and errors of a run of 12 steps."""

    def run(out, kind, *argv):
        script, *flags = KINDS[kind]
        return scripts[script](
            *SCRATCH, "--train_file", text, "--max_seq_length", 32, "--do_train", "--max_steps", 12, "--seed", 3,
            "--per_device_train_batch_size", 4, "--learning_rate", 0.01, "--save_steps", 3, "--logging_steps", 4,
            "--output_dir", out, *flags, *argv,
        )  # fmt: skip

    return run


def losses(out) -> list[tuple]:
    """All that is logged of training but the meters."""
    names = ("step", "epoch", "loss", "mlm_loss", "nsp_loss", "accuracy", "mlm_accuracy", "grad_norm", "learning_rate")
    entries = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [tuple(entry.get(name) for name in names) for entry in entries if "loss" in entry]


def assert_same(out, whole):
    weights, expected = load_file(out / "model.safetensors"), load_file(whole / "model.safetensors")
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert losses(out) == losses(whole)
    same = ("train_loss", "train_samples")
    results = [json.loads((folder / "train_results.json").read_text()) for folder in (out, whole)]
    assert [results[0][name] for name in same] == [results[1][name] for name in same]


def killed_at(step, accumulation, monkeypatch):
    """The process dies in the forward of this step."""
    compute_loss = PretrainingTrainer.compute_loss

    def dying(self, *args, **kwargs):
        if self.state.global_step + 1 == step:
            raise Killed
        return compute_loss(self, *args, **kwargs)

    monkeypatch.setattr(PretrainingTrainer, "compute_loss", dying)


@pytest.mark.parametrize(("kind", "workers"), [*((kind, 0) for kind in KINDS), ("lines", 2), ("both", 2)])
def test_a_run_killed_again_and_again_ends_as_one_that_never_was(kind, workers, train, tmp_path, monkeypatch):
    """Mistake 13: bit for bit the same weights, and the same losses, though logs and saves do not coincide."""
    argv = ("--dataloader_num_workers", workers)
    assert train(tmp_path / "whole", kind, *argv)[0] == 0
    for step in (5, 8, 11):
        with monkeypatch.context() as patched, pytest.raises(Killed):
            killed_at(step, 1, patched)
            train(tmp_path / "out", kind, *argv)
    code, printed, errors = train(tmp_path / "out", kind, *argv)
    assert (code, errors) == (0, "")
    assert f"Going on from {tmp_path / 'out' / 'checkpoint-9'}" in printed
    assert_same(tmp_path / "out", tmp_path / "whole")
    entries = losses(tmp_path / "whole")
    assert [entry[0] for entry in entries] == [1, 4, 8, 12]
    assert any(entry[1] > 1 and entry[1] % 1 for entry in entries), "the middle of a later epoch"

