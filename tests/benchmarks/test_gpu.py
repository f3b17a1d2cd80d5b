"""Test benchmarks/gpu.sh with tiny sizes on the CPU: its comparisons, and parts that hang or fail."""

import argparse
import json
import os
import stat
import subprocess
import sys
from dataclasses import replace

import gpu
import gpu_training
import pytest
import torch
from gpu import judge, run_command
from gpu_tables import failures_of
from gpu_training import compare, compare_heads, compiled, make_bench, parity, settings, throughput
from gpu_waits import find_waits
from safetensors.torch import save_file

from cloze.models import sparse_prediction
from cloze.training import context
from tests.utils import ROOT

PARTS = ["parity", "resume", "commands", "throughput", "compiled"]


@pytest.fixture
def part(tmp_path):
    """Return a function that runs a part with tiny sizes and returns its reported lines."""

    def run(function, limit=float("inf"), earlier=()):
        results = tmp_path / "results.jsonl"
        results.write_text("".join(json.dumps(line) + "\n" for line in earlier))
        folder = tmp_path / function.__name__
        folder.mkdir()
        function(argparse.Namespace(part=function.__name__, smoke=True, results=results, limit=limit), folder)
        return [json.loads(line) for line in results.read_text().splitlines()][len(earlier) :]

    return run


def start(*argv, **environment):
    """Run gpu.sh; return its exit code, the last line as JSON, and the output."""
    run = subprocess.run(
        ["bash", ROOT / "benchmarks/gpu.sh", *argv],
        env=os.environ | {"PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
    )
    return run.returncode, json.loads(run.stdout.splitlines()[-1]), run.stdout


# Parts


def test_parity_passes_on_equal_models(part):
    checks = part(parity)
    assert [line["ok"] for line in checks] == [True] * 4
    single, half, heads, waits = checks
    # Two runs on the same device are equal; the other comparisons are close.
    assert single["loss"] == single["gradient"] == 0.0
    assert 0.0 < half["loss"] < 2e-3
    assert 0.0 < heads["gradient"] < 1e-5
    assert heads["places"] == ["bert.encoder.layer.1.attention"] * 2
    assert waits["reads"] == 0


def test_parity_finds_a_head_that_selects_other_positions(tmp_path, monkeypatch):
    bench = make_bench("lines", "micro", settings(dropout=0.0), str(tmp_path))
    selected = sparse_prediction._selected
    monkeypatch.setattr(
        sparse_prediction, "_selected", lambda values, positions: selected(values.roll(1, 1), positions)
    )
    found = compare_heads(bench, bench.model)
    assert not found["ok"]
    assert found["gradient"] > 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_step_waits_for_the_gpu(tmp_path):
    """Loading, forward, backward, clipping and the optimizer's step of masked language modelling in blocks."""
    bench = make_bench("blocks-128", "micro", settings(device="cuda", bf16=True, workers=1), str(tmp_path))
    assert find_waits(bench) == {"reads": 0, "ok": True}


def test_a_step_that_reads_a_value_is_found(tmp_path, monkeypatch):
    """With a mask, BERT reads whether that is full."""
    monkeypatch.setattr(context, "runs_without_mask", lambda model: False)
    bench = make_bench("blocks-128", "micro", settings(), str(tmp_path))
    assert find_waits(bench) == {"reads": 3, "ok": False}


def test_differences_are_relative():
    """Differences are relative to the largest gradient of the weight, or a thousandth of the largest of all."""
    wanted = {"large": torch.tensor([3.0, 4.0]), "small": torch.tensor([0.1]), "noise": torch.tensor([1e-9])}
    own = {"large": torch.tensor([3.0, 4.0]), "small": torch.tensor([0.11]), "noise": torch.tensor([-1e-9])}
    found = compare([(2.0, wanted)], [(2.5, own)])
    assert found["loss"] == 0.25
    assert found["gradient"] == pytest.approx(0.1)
    assert found["worst"] == "small, step 1"
    found = compare([(2.0, wanted)], [(2.0, wanted | {"noise": torch.tensor([1e-6])})])
    assert found["gradient"] == pytest.approx(1e-6 / 4e-3, rel=1e-2)
    with pytest.raises(KeyError, match="small"):
        compare([(2.0, wanted)], [(2.0, {"large": own["large"], "noise": own["noise"]})])


@pytest.mark.flops
def test_throughput_uses_the_largest_batch(part, monkeypatch):
    monkeypatch.setattr(gpu_training, "SMOKE", replace(gpu_training.SMOKE, works=("lines",)))
    lines = part(throughput)
    assert [line["side"] for line in lines] == ["ours", "stock"]
    for best in lines:
        assert best["tokens"] == 1024
        assert best["figures"]["slowest"] <= best["figures"]["tokens/s"] <= best["figures"]["fastest"]
        assert 0.0 < best["figures"]["MFU"] < 1.0


class Clock:
    """A clock without a training run."""

    warm_up_seconds = 1.0
    turns = ({"tokens_per_second": 5.0, "non_padding_fraction": 1.0},)


def test_compiled_throughput_uses_the_batch_found_before(part, monkeypatch):
    monkeypatch.setitem(gpu_training.SIDES, "stock", lambda *_, **training: Clock)
    earlier = [{"part": "throughput", "work": "blocks-128", "side": "ours", "tokens": 512, "figures": {}}]
    ours, stock = part(compiled, earlier=earlier)
    assert (ours["tokens"], ours["compiled"]) == (512, True)
    assert ours["figures"]["tokens/s"] > 0
    # Without a measured batch size.
    assert (stock["tokens"], stock["figures"]["tokens/s"]) == (1024, 5.0)


@pytest.fixture
def unmeasured(monkeypatch):
    """Let batches of more than 512 tokens run out of memory; skip training with others."""

    def train(bench, model, args, *_, **training):
        if training["per_device_train_batch_size"] > 4:
            raise torch.OutOfMemoryError
        return Clock

    monkeypatch.setattr(gpu_training, "SIDES", {"ours": train, "stock": train})
    monkeypatch.setattr(gpu_training, "SMOKE", replace(gpu_training.SMOKE, works=("blocks-128",)))


def test_throughput_tries_a_smaller_batch_after_out_of_memory(part, unmeasured):
    too_large, best = [line for line in part(throughput) if line["side"] == "ours"]
    assert (too_large["tokens"], too_large["tried"]) == (1024, "out of memory")
    assert (best["tokens"], best["figures"]["tokens/s"]) == (512, 5.0)


def test_throughput_reports_that_no_batch_fits(part, unmeasured, monkeypatch):
    monkeypatch.setattr(gpu_training, "SMOKE", replace(gpu_training.SMOKE, tokens=(2048, 1024), works=("blocks-128",)))
    *_, stock = part(throughput)
    assert failures_of([stock], []) == ["throughput, blocks-128, stock: out of memory"]


def test_compiled_throughput_reports_that_no_batch_fits(part, unmeasured):
    earlier = [{"part": "throughput", "work": "blocks-128", "side": "stock", "tokens": 512, "figures": {}}]
    ours, stock = part(compiled, earlier=earlier)
    assert ours["failed"] == "out of memory"
    assert "figures" in stock
    assert failures_of([ours, stock], []) == ["compiled, blocks-128, ours: out of memory"]


def test_throughput_skips_what_exceeds_its_time(part, unmeasured):
    assert [line["skipped"] for line in part(throughput, limit=0)] == ["no time left"] * 2


def test_failing_command_is_reported(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint('  Memory  9 GB')\nsys.exit('error: no text')")
    found = run_command("mlm", f"{script} --flag", tmp_path / "out")
    assert (found["ok"], found["exit code"], found["error"]) == (False, 1, "error: no text")
    assert found["estimates"] == ["Memory  9 GB"]


def run_with_losses(folder, **losses):
    """Write runs with the same weights and metrics, and these losses."""
    for name, values in losses.items():
        (folder / name).mkdir()
        history = [{"step": step, "loss": loss} for step, loss in enumerate(values)]
        history.insert(1, {"step": 0, "resumed": True})
        (folder / name / "trainer_state.json").write_text(json.dumps({"log_history": history}))
        (folder / name / "all_results.json").write_text("{}")
        save_file({"weight": torch.zeros(2)}, folder / name / "model.safetensors")


@pytest.mark.parametrize(
    ("step", "loss", "kernels", "judged", "ok"),
    [
        (1, 2.0, "default kernels", "equal", True),
        (1, 2.0005, "default kernels", "close, within 0.001 for 10 steps", True),
        (1, 2.0005, "--full_determinism", "different", False),
        (1, 2.002, "default kernels", "different", False),
        (10, 2.002, "default kernels", "different", False),
        (11, 2.002, "default kernels", "close, within 0.001 for 10 steps", True),
    ],
)
def test_resume_check_compares_losses(tmp_path, step, loss, kernels, judged, ok):
    losses = [2.0] * 12
    run_with_losses(tmp_path, whole=losses, stopped=[*losses[:step], loss, *losses[step + 1 :]])
    found = judge(tmp_path, {"stopped": 75, "resumed": 0, "whole": 0}, kernels)
    assert (found["judged"], found["ok"], found["loss"]) == (judged, ok, pytest.approx(loss - 2.0))


def test_resume_check_fails_on_another_exit_code(tmp_path):
    (tmp_path / "stopped.log").write_text("Traceback\nValueError: why\n\n")
    found = judge(tmp_path, {"stopped": 1, "resumed": 0, "whole": 0}, "default kernels")
    assert (found["ok"], found["error"]) == (False, "ValueError: why")


def test_gpu_benchmark_needs_a_gpu():
    with pytest.raises(SystemExit, match="no GPU; --smoke"):
        gpu.machine(argparse.Namespace(smoke=False), None)


# The whole


@pytest.mark.slow
def test_gpu_sh_stops_and_resumes():
    code, summary, printed = start("--smoke", "resume")
    assert (code, summary["failures"]) == (0, []), printed
    (check,) = [line for line in summary["results"] if "check" in line]
    assert check["exit_codes"] == {"stopped": 75, "resumed": 0, "whole": 0}
    assert check["steps"] == 30
    assert 5 <= check["resumed_after"] < 30
    assert (check["judged"], check["loss"]) == ("equal", 0.0)


@pytest.mark.slow
def test_gpu_sh_runs_the_speedrun():
    code, summary, printed = start("--smoke", "speedrun")
    assert (code, summary["failures"]) == (0, []), printed
    runs = [line for line in summary["results"] if "held-out loss" in line]
    assert [(run["side"], run["steps"], run["learning rate"]) for run in runs] == [
        ("stock", 20, "5e-4"),
        ("sparse", 20, "5e-4"),
        ("no-dropout", 20, "5e-4"),
    ]
    assert all(6 < run["held-out loss"] < 6.9 and run["seconds"] > 0 for run in runs)
    assert "held-out loss" in printed


@pytest.fixture
def parts_that(tmp_path):
    """Return a function that replaces Python by a script: the given commands for parts, a report for the others."""

    def make(**actions):
        report = 'echo "{\\"part\\": \\"$2\\", \\"check\\": \\"$2\\", \\"ok\\": true}" >>"$4"'
        cases = "".join(f"{part}) {action} ;;\n" for part, action in actions.items())
        path = tmp_path / "python"
        path.write_text(f'#!/bin/sh\ncase $2 in\n{cases}table) exec {sys.executable} "$@" ;;\n*) {report} ;;\nesac\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return {"PYTHON": str(path), "CHECKS_LIMIT": "1"}

    return make


def test_gpu_benchmark_runs_all_parts(parts_that):
    code, summary, printed = start(**parts_that())
    assert (code, summary["failures"]) == (0, [])
    assert [line["part"] for line in summary["results"] if "check" in line][-2:] == ["throughput", "compiled"]
    assert "All checks passed" in printed


def test_gpu_benchmark_survives_a_part_that_hangs_or_dies(parts_that):
    code, summary, _ = start(**parts_that(parity="sleep 60 & wait", resume="exit 3", throughput=":"))
    assert code == 1
    hung, died, silent = summary["failures"]
    assert hung.startswith("parity was stopped at its limit")
    assert died.startswith("resume failed")
    assert died.endswith("with exit code 3")
    assert silent == "throughput has no results"
    assert {line["part"] for line in summary["results"] if "check" in line} == {"machine", "commands", "compiled"}


def test_gpu_benchmark_names_a_failed_check(parts_that):
    wrong = 'echo "{\\"part\\": \\"parity\\", \\"check\\": \\"float32\\", \\"ok\\": false}" >>"$4"'
    code, summary, printed = start("parity", **parts_that(parity=wrong))
    assert (code, summary["failures"]) == (1, ["parity, float32: check failed"])
    assert "FAILED: parity, float32" in printed


def test_gpu_benchmark_counts_parts_not_run_as_failures():
    assert failures_of([], PARTS) == [f"{part} did not finish" for part in PARTS]
