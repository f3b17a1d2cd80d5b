"""Several processes: the same losses, weights and evaluations as one; together to the end, or to an early one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.testing import assert_close

from cloze.data.samplers import BatchSettings, EpochDataset, ResumableBatchSampler
from cloze.training.checkpoints import list_checkpoints
from tests.utils import (
    ROOT,
    SAMPLE,
    run_muon_in_float32,
    run_noting_collectives,
    run_until_evaluation,
    run_with_full_disk,
    slow_but,
    start,
    start_together,
)

MODEL = (
    "hidden_size=16,num_hidden_layers=2,num_attention_heads=2,intermediate_size=32,max_position_embeddings=66,"
    "hidden_dropout_prob=0,attention_probs_dropout_prob=0"
)
XLNET = "d_model=16,n_layer=2,n_head=2,d_inner=32,dropout=0"
SCRIPTS = {
    "run_mlm": ("--line_by_line", "--final_mlm_probability", 0.6, "--batch_size_schedule", "0.5:1"),
    "run_clm": ("--line_by_line",),
    "run_nsp": ("--sentence_per_line",),
    "run_pretraining": ("--sentence_per_line", "--pair_strategy", "sentence"),
    "run_plm": ("--line_by_line", "--model_type", "xlnet", "--config_overrides", XLNET),
    "run_classification": (),
}


def flags(out, batch, *argv, steps=6):
    return (
        "--model_type", "bert", "--config_overrides", MODEL, "--vocab_size", 600, "--train_file", SAMPLE,
        "--max_seq_length", 32, "--do_train", "--max_steps", steps, "--per_device_train_batch_size", batch,
        "--gradient_accumulation_steps", 1, "--learning_rate", 0.01, "--logging_steps", 1, "--save_steps", 4,
        "--cache_dir", out.parent / "cache", "--output_dir", out, *argv,
    )  # fmt: skip


def finish(processes) -> list[int]:
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def history(out, *names) -> list[tuple]:
    entries = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [tuple(entry[name] for name in names) for entry in entries if names[-1] in entry]


def assert_alike(out, one):
    """The losses are equal up to float32 rounding."""
    for names in (("step", "epoch", "learning_rate", "grad_norm", "loss"), ("step", "eval_loss")):
        assert_close(history(out, *names), history(one, *names), rtol=2e-5, atol=1e-7)
    weights, expected = load_file(out / "model.safetensors"), load_file(one / "model.safetensors")
    assert_close(weights, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("script", slow_but(["run_pretraining"], SCRIPTS))
def test_step_is_the_same_for_any_processes_and_accumulation(script, tmp_path):
    """transformers#47688, #37766 and #26827: 1 process x 16, 2 x 8, and 2 x 4 accumulated twice; and each says its
    things once."""
    # 400 make whole steps: where fewer examples than processes are left, they join the last full step.
    argv = (*SCRIPTS[script], "--do_eval", "--max_eval_samples", 50, "--max_train_samples", 400)
    one = tmp_path / "one"
    assert finish([start(script, *flags(one, 16, *argv), log=tmp_path / "one.log")]) == [0]
    for batch, accumulation in ((8, 1), (4, 2)):
        out = tmp_path / f"2x{batch}"
        argv_of_two = (*argv, "--gradient_accumulation_steps", accumulation)
        assert finish(start_together(script, *flags(out, batch, *argv_of_two), log=out)) == [0, 0]
        assert_alike(out, one)
        # Evaluations of the same weights, to the last digit.
        before = [
            {name: value for name, value in entry.items() if "per_second" not in name and "runtime" not in name}
            for folder in (one, out)
            for entry in json.loads((folder / "trainer_state.json").read_text())["log_history"]
            if "eval_loss" in entry and entry["step"] == 0
        ]
        assert len(before) == 2
        assert before[0] == before[1]
        assert "\ntrain " in out.with_suffix(".0").read_text()
        # But for torch, which looks for parameters that are not used, and finds none.
        others = [line for line in out.with_suffix(".1").read_text().splitlines() if not line.startswith("[rank1]")]
        assert not others


@pytest.mark.slow
def test_processes_average_the_same_weights(tmp_path):
    """A checkpoint of two processes resumes in two to the same bytes."""
    argv = (*SCRIPTS["run_mlm"], "--do_eval", "--max_eval_samples", 50, "--max_train_samples", 400, "--ema_decay", 0.9)
    one, two, name = tmp_path / "one", tmp_path / "two", "averaged_weights.safetensors"
    assert finish([start("run_mlm", *flags(one, 16, *argv), log=tmp_path / "one.log")]) == [0]
    assert finish(start_together("run_mlm", *flags(two, 8, *argv), log=two)) == [0, 0]
    assert_alike(two, one)
    whole = load_file(two / "model.safetensors")
    average = load_file(two / "checkpoint-6" / name)
    assert_close({key: whole[key] for key in average}, average, rtol=0, atol=0)
    shutil.rmtree(two / "checkpoint-6")
    (two / "model.safetensors").unlink()
    assert finish(start_together("run_mlm", *flags(two, 8, *argv), log=two)) == [0, 0]
    assert_close(load_file(two / "model.safetensors"), whole, rtol=0, atol=0)


@pytest.mark.slow
def test_growing_blocks_are_the_same_for_any_processes(tmp_path):
    """Each process cuts its own blocks at the same step."""
    argv = ("--sequence_length_schedule", "16:32", "--max_train_samples", 400)
    one, two = tmp_path / "one", tmp_path / "two"
    assert finish([start("run_mlm", *flags(one, 16, *argv), log=tmp_path / "one.log")]) == [0]
    assert finish(start_together("run_mlm", *flags(two, 8, *argv), log=two)) == [0, 0]
    assert_alike(two, one)


@pytest.mark.slow
def test_muon_is_the_same_for_any_processes(tmp_path):
    """Each process orthogonalizes the same averaged gradients."""
    argv = ("run_mlm", "--line_by_line", "--max_train_samples", 400, "--do_eval", "--max_eval_samples", 50)
    argv += ("--optim", "muon", "--embedding_learning_rate", 0.02)
    one, two = tmp_path / "one", tmp_path / "two"
    assert finish([start(*argv, *flags(one, 16), log=tmp_path / "one.log", target=run_muon_in_float32)]) == [0]
    assert finish(start_together(*argv, *flags(two, 8), log=two, target=run_muon_in_float32)) == [0, 0]
    assert_alike(two, one)


@pytest.mark.slow
@pytest.mark.parametrize("shares", [("astronomy=0.8", "music=0.2"), None])
def test_mixture_is_the_same_for_any_processes(shares, tmp_path):
    """Of prepared texts; the processes of a stream read other parts of the texts."""
    files = [f"{name}={SAMPLE / name}.txt" for name in ("astronomy", "music")]
    argv = ("--line_by_line", "--train_file", *files, *(("--mixture", *shares) if shares else ()))
    one, two = tmp_path / "one", tmp_path / "two"
    assert finish([start("run_mlm", *flags(one, 16, *argv), log=tmp_path / "one.log")]) == [0]
    assert finish(start_together("run_mlm", *flags(two, 8, *argv), log=two)) == [0, 0]
    assert_close(history(two, "step", "loss"), history(one, "step", "loss"), rtol=2e-5, atol=1e-7)
    assert two.with_suffix(".0").read_text().count("\nMixture: astronomy ") == 1


def test_accelerate_launch_trains_with_two_processes(tmp_path):
    """As in the README, on two CPUs: its own rendezvous, and config file."""
    command = [
        Path(sys.executable).with_name("accelerate"), "launch", "--config_file", "recipes/accelerate/ddp.yaml",
        "--num_processes", 2, "--main_process_port", 0, "run_mlm.py", "--use_cpu", "--line_by_line",
        *flags(tmp_path / "two", 8),
    ]  # fmt: skip
    result = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert finish([start("run_mlm", "--line_by_line", *flags(tmp_path / "one", 16), log=tmp_path / "log")]) == [0]
    names = ("step", "loss")
    assert_close(history(tmp_path / "two", *names), history(tmp_path / "one", *names), rtol=2e-5, atol=0)


def wait_for(log, text, processes):
    while text not in (log.read_text() if log.exists() else ""):
        assert all(process.is_alive() for process in processes), log.read_text()
        time.sleep(0.01)


def test_signal_to_one_process_stops_all_at_the_same_step(tmp_path):
    """One process resumes a run of two, with the same losses: its batch is as large as both of theirs."""
    one, out, log = tmp_path / "one", tmp_path / "out", tmp_path / "log"
    argv = ("run_mlm", "--line_by_line", "--max_train_samples", 200, "--save_steps", 500)
    processes = start_together(*argv, *flags(out, 8, steps=40), log=log)
    wait_for(log.with_suffix(".0"), "\ntrain ", processes)
    os.kill(processes[1].pid, signal.SIGUSR1)
    assert finish(processes) == [75, 75]
    (step,) = list_checkpoints(str(out))
    assert f"Stopped by a signal after step {step}" in log.with_suffix(".0").read_text()
    assert finish([start(*argv, *flags(out, 16, steps=40), log=log)]) == [0]
    assert f"Resuming from {out / f'checkpoint-{step}'}" in log.read_text()
    assert finish([start(*argv, *flags(one, 16, steps=40), log=tmp_path / "one.log")]) == [0]
    names = ("step", "epoch", "learning_rate", "loss")
    assert_close(history(out, *names), history(one, *names), rtol=1e-4, atol=1e-6)


def test_signal_to_one_process_stops_evaluation_of_all_at_the_same_batch(tmp_path):
    whole, out, log = tmp_path / "whole", tmp_path / "out", tmp_path / "log"
    evaluated = ("--do_eval", "--max_eval_samples", 20, "--per_device_eval_batch_size", 1, "--eval_strategy", "steps")
    argv = ("run_mlm", "--line_by_line", *evaluated, "--eval_steps", 2, "--metric_for_best_model", "loss")
    assert finish(start_together(*argv, *flags(whole, 8, steps=4), log=tmp_path / "whole.log")) == [0, 0]
    stopped = start_together(*argv, *flags(out, 8, steps=4), log=log, patience=60, target=run_until_evaluation)
    assert finish(stopped) == [75, 75]
    for rank in range(2):
        assert re.findall(r"batch \d of step 2", log.with_suffix(f".{rank}").read_text())[-1] == "batch 3 of step 2"
    assert "Stopped by a signal after step 2: checkpoint saved" in log.with_suffix(".0").read_text()
    assert finish(start_together(*argv, *flags(out, 8, steps=4), log=log)) == [0, 0]
    for names in (("step", "learning_rate", "grad_norm", "loss"), ("step", "eval_accuracy", "eval_loss")):
        assert history(out, *names) == history(whole, *names)
    weights, expected = load_file(out / "model.safetensors"), load_file(whole / "model.safetensors")
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_preparation_may_outlast_the_collective_timeout(tmp_path):
    """transformers#17106: one prepares, the others wait at a file lock, not in a collective, which would time out."""
    cache = tmp_path / "cache" / "cloze"
    assert finish([start("run_mlm", *flags(tmp_path / "one", 16, "--prepare_only"), log=tmp_path / "log")]) == [0]
    (corpus,) = (path for path in cache.glob("corpus-*") if path.is_dir())
    shutil.rmtree(corpus)
    log = tmp_path / "two"
    with FileLock(f"{corpus}.lock"):
        argv = flags(tmp_path / "out", 8)
        processes = start_together("run_mlm", *argv, log=log, target=run_noting_collectives)
        wait_for(log.with_suffix(".0"), "Tokenizer: ", processes)
        time.sleep(2)
        notes = [tmp_path / f"two.{rank}.collectives" for rank in range(2)]
        for _ in range(6000):
            if all(note.exists() and note.read_text().count("+") == note.read_text().count("-") for note in notes):
                break
            time.sleep(0.01)
        else:
            raise AssertionError("a process waits in a collective")
        assert all(process.is_alive() for process in processes)
    assert finish(processes) == [0, 0]
    assert all("+" in note.read_text() for note in notes)
    assert log.with_suffix(".0").read_text().count("Saved the prepared corpus") <= 1


@pytest.mark.parametrize("mixed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_killed_processes_resume_exactly(mixed, tmp_path):
    """Bit for bit, with dropout: each process has its own random numbers. Also of a mixture of streams."""
    dropout = ("--config_overrides", MODEL.replace("prob=0", "prob=0.1"), "--line_by_line")
    if mixed:
        files = [f"{name}={SAMPLE / name}.txt" for name in ("astronomy", "music")]
        dropout += ("--train_file", *files, "--mixture", "astronomy=0.8", "music=0.2", "--streaming")
    whole, out, log = tmp_path / "whole", tmp_path / "out", tmp_path / "log"
    assert finish(start_together("run_mlm", *flags(whole, 8, *dropout, steps=30), log=tmp_path / "whole.log")) == [0, 0]
    processes = start_together("run_mlm", *flags(out, 8, *dropout, steps=30), log=log)
    while not (out / "checkpoint-8").exists():
        assert all(process.is_alive() for process in processes)
        time.sleep(0.01)
    for process in processes:
        process.kill()
    assert finish(processes) == [-signal.SIGKILL] * 2
    assert finish(start_together("run_mlm", *flags(out, 8, *dropout, steps=30), log=log)) == [0, 0]
    assert "Resuming from" in log.with_suffix(".0").read_text()
    names = ("step", "epoch", "learning_rate", "grad_norm", "loss")
    assert history(out, *names) == history(whole, *names)
    weights, expected = load_file(out / "model.safetensors"), load_file(whole / "model.safetensors")
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_other_process_count_resumes_with_the_remaining_examples(tmp_path):
    """Of 160 lines, two processes took 4 x 16 when they were stopped, and one takes the other 96 by 8, and so on."""
    out, log = tmp_path / "out", tmp_path / "log"
    argv = ("run_mlm", "--line_by_line", "--max_train_samples", 160, "--num_train_epochs", 2, "--truncate_long_lines")
    assert finish(start_together(*argv, *flags(out, 8, "--max_steps", -1), log=log)) == [0, 0]
    whole = history(out, "step", "epoch", "loss")
    assert [(step, epoch) for step, epoch, _ in whole] == [(step, step / 10) for step in range(1, 21)]
    for step in (8, 12, 16, 20):
        if step > 8 and (out / f"checkpoint-{step}").exists():
            (out / f"checkpoint-{step}").rename(tmp_path / f"{step}")
    # The newest two were kept: those before are as if the run had been killed after them.
    (tmp_path / "16").rename(out / "checkpoint-16")
    assert finish([start(*argv, *flags(out, 8, "--max_steps", -1), log=log)]) == [0]
    assert "warning: 8 steps are left: the batch size has changed" in log.read_text()
    entries = history(out, "step", "epoch", "loss")
    assert entries[:16] == whole[:16]
    assert [(step, round(epoch, 9)) for step, epoch, _ in entries[16:]] == [
        (16 + step, round(1.6 + 0.05 * step, 9)) for step in range(1, 9)
    ]


def test_nan_loss_stops_all_processes(tmp_path):
    argv = flags(tmp_path / "out", 8, "--learning_rate", 1e30, "--max_grad_norm", 1e30)
    assert finish(start_together("run_mlm", *argv, log=tmp_path / "log")) == [2, 2]
    messages = [(tmp_path / f"log.{rank}").read_text() for rank in (0, 1)]
    found = [re.search(r"NaN or infinite loss at step (\d+)", message)[1] for message in messages]
    assert found[0] == found[1]
    assert "Traceback" not in messages[0] + messages[1]


def test_full_disk_of_one_process_stops_all_in_one_line(tmp_path):
    argv = flags(tmp_path / "out", 8)
    processes = start_together("run_mlm", *argv, log=tmp_path / "log", patience=60, target=run_with_full_disk)
    assert finish(processes) == [2, 2]
    messages = [(tmp_path / f"log.{rank}").read_text() for rank in (0, 1)]
    assert re.search(r"error: .*checkpoint-4 cannot be written .*No space left on device", messages[0])
    assert re.search(r"error: .*checkpoint-4 cannot be written by another process: see its error", messages[1])
    assert "Traceback" not in messages[0] + messages[1]


# Batches, without processes


class Lengths:
    def __init__(self, lengths):
        self.lengths = lengths

    def __getitem__(self, number):
        return {}


def take(examples, batch_settings, epoch, past, steps):
    """Return the examples that N steps of all processes take, by step, and the position after them."""
    ranks = [
        ResumableBatchSampler(examples, batch_settings, lambda lengths: lengths, 3, rank)
        for rank in range(batch_settings.processes)
    ]
    for rank in ranks:
        rank.set_epoch(epoch, past)
    left = [list(rank) for rank in ranks]
    assert len({len(batches) for batches in left}) == 1
    size = batch_settings.accumulation
    taken = []
    for begin in range(0, min(steps * size, len(left[0])), size):
        step = [batch for batches in left for batch in batches[begin : begin + size]]
        taken.append([number for batch in step for _, number in batch])
    return taken, ranks[0].position_after(len(taken))


CUTS = st.builds(
    BatchSettings,
    strategy=st.just("group_by_length"),
    batch_size=st.integers(1, 5),
    accumulation=st.integers(1, 3),
    processes=st.integers(1, 4),
    max_tokens=st.sampled_from([None, None, 60]),
)


@given(st.integers(20, 90), st.lists(st.tuples(CUTS, st.integers(0, 6)), max_size=5), CUTS)
@settings(max_examples=200, deadline=None)
def test_sampler_gives_every_example_once_though_batches_change(count, stretches, last):
    """Runs are interrupted at any step and resumed with any number of processes, several times."""
    examples = EpochDataset(lambda epoch: Lengths(np.random.default_rng(epoch).integers(5, 60, count)))
    epoch, past, taken = 0, [], []
    for cut, steps in [*stretches, (last, 10**6)]:
        assert epoch == 0
        more, (epoch, past) = take(examples, cut, epoch, past, steps)
        taken += [number for step in more for number in step]
        if epoch == 1:
            break
    assert (epoch, past) == (1, [])
    assert sorted(set(taken)) == list(range(count))
    # If fewer examples than processes are left, some are taken twice.
    assert len(taken) - count < 4


@given(st.integers(1, 20), st.sampled_from([(1, 8, 2), (2, 4, 2), (4, 4, 1), (2, 8, 1), (1, 16, 1), (1, 4, 4)]))
@settings(max_examples=60, deadline=None)
def test_steps_depend_on_the_global_batch_size_only(begun, cut):
    """Of 16 examples a step, whoever takes them."""
    examples = EpochDataset(lambda epoch: Lengths(np.random.default_rng(epoch).integers(5, 60, 400)))
    processes, batch_size, accumulation = cut
    whole, _ = take(examples, BatchSettings("group_by_length", 16), 2, [], 100)
    first, (epoch, past) = take(examples, BatchSettings("group_by_length", 16), 2, [], begun)
    rest, _ = take(examples, BatchSettings("group_by_length", batch_size, accumulation, processes), epoch, past, 100)
    assert [sorted(step) for step in first + rest] == [sorted(step) for step in whole]


def test_sampler_resumes_by_index():
    """transformers#11284: step 1,000,000 without a batch before it."""

    class Counted(EpochDataset):
        def __getitem__(self, key):
            raise AssertionError("an example was made")

    examples = Counted(lambda epoch: Lengths(np.full(2_000_000, 9)))
    batch = BatchSettings("random", 1)
    batches = ResumableBatchSampler(examples, batch, lambda lengths: lengths, 0)
    expected = batches.order[1_000_000].item()
    batches.set_epoch(0, [(batch, 1_000_000)])
    assert next(iter(batches)) == [(0, expected)]
    assert len(batches) == 1_000_000
