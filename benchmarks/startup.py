#!/usr/bin/env python
"""Measure the start-up time: to the help, to an error, and to the first training step with a prepared corpus.

    python benchmarks/startup.py

The reference is the import of the classes that training needs. Each measurement is the wall time of a process of its
own; the sides alternate. The first step is a whole step, up to its line in the log. Prints a table of medians and a
line of JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent

IMPORTS = "from transformers import AutoTokenizer, BertForMaskedLM, Trainer"
TRAINING = "run_mlm.py recipes/quickstart/mlm.yaml --do_eval false --use_cpu --logging_steps 1 --save_strategy no"
# Each with its exit code, or with the beginning of the line at which the time ends.
SIDES = {
    "imports": (["-c", IMPORTS], 0),
    "help": (["run_mlm.py", "--help"], 0),
    "an unknown flag": (["run_mlm.py", "--lerning_rate", "1"], 2),
    "to the first step": (TRAINING.split(), "train "),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7, help="measurements of each side")
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        own = ["--output_dir", f"{folder}/out", "--cache_dir", f"{folder}/cache", "--overwrite_output_dir"]
        prepare = [sys.executable, *TRAINING.split(), *own, "--prepare_only"]
        subprocess.run(prepare, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        for _ in range(args.turns):
            for name, (argv, end) in SIDES.items():
                seconds[name].append(measure([*argv, *own] if isinstance(end, str) else argv, end))
    medians = {name: median(times) for name, times in seconds.items()}
    print("| command | seconds, median | lowest | highest | of the imports |\n|---|---|---|---|---|")
    for name, times in seconds.items():
        ratio = medians[name] / medians["imports"]
        print(f"| {name} | {medians[name]:.2f} | {min(times):.2f} | {max(times):.2f} | {ratio:.2f} |")
    print(json.dumps(seconds))


def measure(argv: list[str], end: int | str) -> float:
    """Return the seconds until Python ends with an exit code, or prints a line with a beginning and is killed."""
    begin = time.perf_counter()
    command = [sys.executable, "-u", *argv]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        for printed in process.stdout:
            if isinstance(end, str) and printed.startswith(end):
                seconds = time.perf_counter() - begin
                process.kill()
                return seconds
    if process.returncode != end:
        sys.exit(f"{' '.join(argv)} ended with exit code {process.returncode}, not with {end!r}")
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
