#!/usr/bin/env python
"""Run the parts of gpu.sh that start the scripts as users do, and print its table.

python benchmarks/gpu.py resume [--smoke] [--results FILE]
"""

import argparse
import faulthandler
import importlib.metadata
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from gpu_tables import failures_of, print_tables

ROOT = Path(__file__).resolve().parent.parent

# Tolerance of losses in the first steps after a resume, for kernels that sum in any order; differences grow later.
CLOSE, FIRST_STEPS = 1e-3, 10

RESUMED = "run_mlm.py recipes/quickstart/mlm.yaml --bf16 --logging_steps 1 --overwrite_output_dir false"
COMMANDS = {
    "run_mlm.py": "run_mlm.py recipes/quickstart/mlm.yaml --bf16 --max_steps 200",
    "run_nsp.py": "run_nsp.py recipes/quickstart/nsp.yaml --bf16 --max_steps 100",
    "run_pretraining.py": "run_pretraining.py recipes/quickstart/pretraining.yaml --bf16 --max_steps 200",
    "--torch_compile": "run_mlm.py recipes/quickstart/mlm.yaml --bf16 --torch_compile --max_steps 20 --do_eval false",
    "--dry_run, BERT-base": "run_pretraining.py recipes/bert-base/pretraining-128.yaml --train_file sample "
    "--validation_split_percentage 10 --bf16 --dry_run",
}
SMOKE_COMMANDS = {
    "run_mlm.py": "run_mlm.py recipes/quickstart/mlm.yaml --use_cpu --bf16 --max_steps 4",
    "--dry_run": "run_mlm.py recipes/quickstart/mlm.yaml --use_cpu --bf16 --dry_run",
}
# Shows which target and which rates suit BERT-base.
SPEEDRUN = "--size bert-base --seeds 1 --side stock-32 muon --steps 800 --sweep learning_rate 1e-4 3e-4"


def main() -> None:
    parts = {"machine": machine, "resume": resume, "commands": commands, "speedrun": speedrun, "table": table}
    args = parse(parts, __doc__)
    with tempfile.TemporaryDirectory() as folder:
        parts[args.part](args, Path(folder))


def parse(parts: Iterable[str], description: str) -> argparse.Namespace:
    """Parse the command line of one of these parts."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("part", choices=list(parts))
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--results", type=Path, help="file to which results are appended")
    parser.add_argument("--limit", type=float, default=math.inf, help="time limit of the part in seconds")
    parser.add_argument("--parts", nargs="*", default=[], help="for table: the parts that must have results")
    args = parser.parse_args()
    if args.limit < math.inf:
        # Reports where a part hangs before it is killed.
        faulthandler.dump_traceback_later(max(args.limit - 2, 0.5))
    return args


def report(args: argparse.Namespace, **figures) -> None:
    """Print a result as a line of JSON, and append it to the results."""
    line = json.dumps({"part": args.part, **figures})
    print(line, flush=True)
    if args.results is not None:
        with args.results.open("a") as file:
            file.write(line + "\n")


def read_results(path: Path | None) -> list[dict]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def table(args: argparse.Namespace, folder: Path) -> None:
    """Print the results as tables and one line of JSON; exit with code 1 if a check or a part failed."""
    lines = read_results(args.results)
    print_tables(lines)
    failures = failures_of(lines, args.parts)
    for failure in failures:
        print(f"FAILED: {failure}")
    print("All checks passed" if not failures else f"{len(failures)} failures")
    print(json.dumps({"smoke": args.smoke, "failures": failures, "results": lines}))
    sys.exit(bool(failures))


def machine(args: argparse.Namespace, folder: Path) -> None:
    """Report the GPU and the versions; exit with an error if there is no GPU."""
    import torch  # takes seconds, and the table does not need it

    found = torch.cuda.is_available()
    if not found and not args.smoke:
        sys.exit("error: torch sees no GPU; --smoke runs this script on the CPU with tiny sizes")
    report(
        args,
        card=torch.cuda.get_device_name() if found else "no GPU",
        memory_gb=round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1) if found else None,
        cores=os.cpu_count(),
        cuda=torch.version.cuda,
        compiler=shutil.which("gcc") or shutil.which("cc"),
        python=platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "transformers", "accelerate")},
    )


# Stop and resume


def resume(args: argparse.Namespace, folder: Path) -> None:
    """Stop a run with SIGTERM, resume it, and compare it with an uninterrupted run."""
    kernels = {"default kernels": []}
    if not args.smoke:
        kernels["--full_determinism"] = ["--full_determinism"]
    with ThreadPoolExecutor() as threads:
        runs = {name: threads.submit(stop_and_resume, args, folder / name, flags) for name, flags in kernels.items()}
        for name, run in runs.items():
            report(args, check=f"SIGTERM and resume, {name}", **judge(folder / name, run.result(), name))


def stop_and_resume(args: argparse.Namespace, folder: Path, flags: list[str]) -> dict[str, int]:
    """Run a command without and with a stop and a resume; return the exit codes of the three processes."""
    steps, lines = (30, 5) if args.smoke else (400, 40)
    flags = [*flags, "--max_steps", str(steps), *["--use_cpu"] * args.smoke]
    folder.mkdir()
    whole = start(RESUMED, folder / "whole", *flags)
    stopped = start(RESUMED, folder / "stopped", *flags, stdout=subprocess.PIPE)
    with (folder / "stopped.log").open("w") as log:
        for line in stopped.stdout:
            log.write(line)
            lines -= line.startswith("train ")
            if lines == 0 and line.startswith("train "):
                stopped.send_signal(signal.SIGTERM)
    codes = {"stopped": stopped.wait()}
    resumed = start(RESUMED, folder / "stopped", *flags, log=folder / "resumed.log")
    return codes | {"resumed": resumed.wait(), "whole": whole.wait()}


def start(command: str, out: Path, *flags: str, log: Path | None = None, stdout=None) -> subprocess.Popen:
    """Start a script with an output folder; write its output to a file next to the folder."""
    argv = [sys.executable, *command.split(), *flags, "--output_dir", str(out)]
    # Unbuffered, to see lines as soon as they are printed.
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with (log or out.with_suffix(".log")).open("w") as file:
        return subprocess.Popen(
            argv, cwd=ROOT, env=environment, stdout=stdout or file, stderr=subprocess.STDOUT, text=True
        )


def judge(folder: Path, codes: dict[str, int], kernels: str) -> dict:
    """Compare a resumed run with the uninterrupted one: equal, close, or different."""
    wanted = {"stopped": 75, "resumed": 0, "whole": 0}
    if codes != wanted:
        wrong = next(name for name, code in codes.items() if code != wanted[name])
        output = (folder / f"{wrong}.log").read_text(errors="replace").splitlines()
        return {"exit_codes": codes, "error": last_line(output), "ok": False}
    from kill_resume import differences  # imports torch

    found = differences(folder / "whole", folder / "stopped")
    whole, resumed = (losses_of(folder / name) for name in ("whole", "stopped"))
    gaps = {step: abs(loss - resumed.get(step, math.inf)) for step, loss in whole.items()}
    begin = next(entry["step"] for entry in history_of(folder / "stopped") if "resumed" in entry)
    first = max(gap for step, gap in gaps.items() if step <= begin + FIRST_STEPS)
    close = kernels == "default kernels" and resumed.keys() == whole.keys() and first <= CLOSE
    return {
        "exit_codes": codes,
        "steps": len(whole),
        "resumed_after": begin,
        "loss": max(gaps.values()),
        "loss_in_first_steps": first,
        "differences": found,
        "judged": "equal" if not found else f"close, within {CLOSE} for {FIRST_STEPS} steps" if close else "different",
        "ok": not found or close,
    }


def losses_of(out: Path) -> dict[int, float]:
    """Return the logged losses of a run, by step."""
    return {entry["step"]: entry["loss"] for entry in history_of(out) if "loss" in entry}


def history_of(out: Path) -> list[dict]:
    path = out / "trainer_state.json"
    return json.loads(path.read_text())["log_history"] if path.exists() else []


def last_line(output: list[str]) -> str:
    """Return the last non-blank line, such as the message of a traceback."""
    return next((line.strip()[:500] for line in reversed(output) if line.strip()), "")


# Commands


def commands(args: argparse.Namespace, folder: Path) -> None:
    """Run commands as users do, all of them concurrently."""
    chosen = SMOKE_COMMANDS if args.smoke else COMMANDS
    with ThreadPoolExecutor(len(chosen)) as threads:
        runs = [
            threads.submit(run_command, name, command, folder / str(number))
            for number, (name, command) in enumerate(chosen.items())
        ]
        for run in as_completed(runs):
            report(args, **run.result())


def run_command(name: str, command: str, out: Path) -> dict:
    """Run a command; return its exit code and metrics."""
    begin = time.perf_counter()
    code = start(command, out).wait()
    figures = {"command": name, "exit code": code, "seconds": round(time.perf_counter() - begin, 1)}
    results = out / "all_results.json"
    metrics = json.loads(results.read_text()) if results.exists() else {}
    losses = losses_of(out)
    output = out.with_suffix(".log").read_text(errors="replace").splitlines()
    return figures | {
        "last loss": losses[max(losses)] if losses else None,
        "tokens/s": metrics.get("train_tokens_per_second"),
        "mfu": metrics.get("train_mfu"),
        # Of a dry run.
        "estimates": [line.strip() for line in output if line.startswith(("  Memory", "  Speed"))],
        "error": None if code == 0 else last_line(output),
        "ok": code == 0,
    }


# Speedrun


def speedrun(args: argparse.Namespace, folder: Path) -> None:
    """Measure training times and held-out losses with speedrun.py."""
    flags = ["--quick"] if args.smoke else SPEEDRUN.split()
    command = [sys.executable, "benchmarks/speedrun.py", *flags, "--output_dir", str(folder)]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    for run in json.loads(output.splitlines()[-1])["runs"]:
        rate = run["flags"]["learning_rate"]
        figures = {"held-out loss": run["loss"], "seconds": run["seconds"]}
        report(args, side=run["side"], steps=run["steps"], **{"learning rate": rate}, **figures)


if __name__ == "__main__":
    main()
