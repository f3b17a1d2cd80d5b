"""Start the scripts on the texts of adaptation.py, and combine the outcomes of their comparisons."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cloze.comparison.bootstrap import Outcome, summarise  # noqa: E402
from cloze.comparison.runner import OUTCOME  # noqa: E402

# What the benchmark adds to a run that it has measured.
TIMES = "times.json"


def start(script: str, folder: Path, flags: Sequence, log: Path, use_cpu: bool = True) -> dict[str, float]:
    """Run a script to its end in ``folder``, unless it is complete; return its wall and CPU time in seconds."""
    times = folder / TIMES
    if times.exists():
        return json.loads(times.read_text())
    argv = [sys.executable, ROOT / script, *map(str, flags), "--output_dir", folder, *["--use_cpu"] * use_cpu]
    log.parent.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    with open(log, "w", encoding="utf-8") as file:
        print(shlex.join(map(str, argv)), file=file, flush=True)
        process = subprocess.Popen(argv, cwd=ROOT, stdout=file, stderr=file)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{script} failed with exit code {process.returncode}: see {log}")
    seconds = {"wall": time.perf_counter() - begun, "cpu": usage.ru_utime + usage.ru_stime}
    times.write_text(json.dumps(seconds))
    return seconds


def pretrain(name: str, work: Path, flags: Sequence) -> dict:
    """Train a masked language model in ``work/models/name``; return its figures."""
    folder = work / "models" / name
    seconds = start("run_mlm.py", folder, flags, work / "logs" / f"{name}.log")
    figures = json.loads((folder / "all_results.json").read_text())
    losses = ", ".join(f"{text} {figures[f'eval_{text}_loss']:.3f}" for text in ("domain", "general"))
    print(f"{name}: {seconds['wall']:,.0f} s ({seconds['cpu']:,.0f} s CPU), held-out masked loss: {losses}", flush=True)
    return {
        "name": name,
        "path": str(folder),
        "flags": shlex.join(map(str, flags)),
        "seconds": seconds,
        "figures": figures,
    }


def compare(
    name: str,
    work: Path,
    models: dict[str, str],
    per_class: int,
    seeds: Sequence[int],
    flags: Sequence,
    evaluated: str = "test",
    script: str = "run_classification.py",
) -> dict:
    """Fine-tune models on labelled texts, which are drawn anew for each seed, and compare them.

    Args:
        name: of the comparison.
        work: folder of texts and runs.
        models: path of each model by name; the first is the baseline, "scratch" has random weights of the second.
        per_class: labelled texts per class.
        seeds: one run of each model with each.
        flags: of fine-tuning.
        evaluated: the texts to evaluate on, "test" or "validation".
        script: to fine-tune with.

    Returns:
        A comparison in the format of comparison.json.
    """
    runs = [fine_tune(name, work, models, per_class, seed, flags, evaluated, script) for seed in seeds]
    return summarise_runs(name, models, per_class, seeds, flags, runs)


def summarise_runs(
    name: str,
    models: dict[str, str],
    per_class: int,
    seeds: Sequence[int],
    flags: Sequence,
    runs: list[list[Outcome]],
) -> dict:
    """Return the comparison of models from the outcomes of each seed, one per model."""
    by_model = [list(outcomes) for outcomes in zip(*runs, strict=True)]
    comparison = summarise(list(models.items()), by_model, seeds)
    return {"name": name, "per_class": per_class, "flags": shlex.join(map(str, flags)), **comparison}


def fine_tune(
    name: str,
    work: Path,
    models: dict[str, str],
    per_class: int,
    seed: int,
    flags: Sequence,
    evaluated: str = "test",
    script: str = "run_classification.py",
) -> list[Outcome]:
    """Fine-tune each model with one seed; return their outcomes. The arguments are those of ``compare``."""
    texts = work / "text"
    (first, path), *others = models.items()
    baseline = ["--model_name_or_path", f"{first}={path}"]
    if first == "scratch":
        baseline = ["--config_name", others[0][1], "--tokenizer_name", others[0][1]]
    folder = work / "comparisons" / f"{name}-{evaluated}-{per_class}" / str(seed)
    files = ["--train_file", texts / f"train-{per_class}-{seed}.csv", "--validation_file", texts / f"{evaluated}.csv"]
    compared = ["--compare_with", *(f"{other}={path}" for other, path in others), "--num_seeds", 1, "--seed", seed]
    log = work / "logs" / f"{name}-{evaluated}-{per_class}-{seed}.log"
    start(script, folder, [*baseline, *compared, *files, "--do_train", "--do_eval", *flags], log)
    paths = (folder / model / f"seed-{seed}" / OUTCOME for model in models)
    return [Outcome(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]
