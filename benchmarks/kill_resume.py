#!/usr/bin/env python
"""Kill a run with ``kill -9`` at random moments, resume it each time, and compare it with an uninterrupted run.

    python benchmarks/kill_resume.py --kills 50 run_mlm.py recipes/quickstart/mlm.yaml
    python benchmarks/kill_resume.py --kills 10 --processes 2 run_mlm.py recipes/quickstart/mlm.yaml --max_steps 200

The benchmark's own flags come first, then the command. The command runs once without and once with kills. Half of the
kills aim at a moment when a checkpoint is written or deleted, a tenth come before the first step of a start, and the
others at any step. Prints a table and a line of JSON; the exit code is 1 if the runs differ in anything but speed, or
if a start did not resume from the newest checkpoint.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from bisect import bisect
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cloze.training.checkpoints import STAGING_DIR, list_checkpoints  # noqa: E402

# Speeds, and values of the last start only: all others must be equal.
SPEEDS = ("_per_second", "runtime", "non_padding_fraction", "mfu", "train_tokens")
TROUBLE = ("Traceback", "error:", "corrupt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, default=1, help="processes on the CPU, killed together")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--folder", help="folder that keeps the runs and their output")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="script, recipe, flags")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        whole = Whole(args, folder)
        starts, kills = run_with_kills(args, folder, whole)
        problems = [problem for start in starts for problem in start.problems()]
        problems += differences(folder / "whole", folder / "killed")
    if len(kills) < args.kills:
        problems.append(f"the run ended after {len(kills)} kills: give more steps")
    resumed = [start for start in starts if start.newest and start.first]
    table = {
        "kills": len(kills),
        "of them in a save": sum(kill["saving"] for kill in kills),
        "of them before a step": sum(not start.first for start in starts[: len(kills)]),
        "starts that went on": f"{sum(start.has_resumed() for start in resumed)} of {len(resumed)}",
        "steps done twice, a kill": mean(float(kill["lost"]) for kill in kills) if kills else None,
        "s to the first new step": mean(start.first for start in resumed) if resumed else None,
        "the same of the whole run": whole.first,
        "equal": "no" if problems else "yes",
    }
    for name, value in table.items():
        print(f"{name:<25} | {f'{value:.1f}' if isinstance(value, float) else value}")
    print(json.dumps({**vars(args), "torch": torch.__version__, "load": os.getloadavg(), "table": table}))
    if problems:
        sys.exit("\n".join(problems))


class Start:
    """One start of the command. Each process has its own session, which is killed with its workers.

    Attributes:
        newest: the step of the newest checkpoint before the start, or 0.
        first: seconds to the first line of training, or None.
    """

    def __init__(self, args, out: Path, log: Path):
        self.out, self.newest, self.first = out, max(list_checkpoints(str(out)), default=0), None
        self.logs = [log.with_name(f"{log.name}.{rank}") for rank in range(args.processes)]
        self.begun, self.printed, self.processes = time.monotonic(), b"", []
        for path, environment in zip(self.logs, environments(args.processes), strict=True):
            with open(path, "w") as file:
                process = subprocess.Popen(
                    command(args, out), stdout=file, stderr=file, env=environment, start_new_session=True
                )
            self.processes.append(process)

    def lines(self) -> int:
        """Return the number of training lines printed so far."""
        with open(self.logs[0], "rb") as file:
            file.seek(len(self.printed))
            self.printed += file.read()
        count = self.printed.count(b"\ntrain ")
        if count and self.first is None:
            self.first = time.monotonic() - self.begun
        return count

    def saving(self) -> bool:
        """Return whether a checkpoint is being written or deleted."""
        return (self.out / STAGING_DIR).exists()

    def wait(self, condition: Callable[[], bool]) -> bool:
        """Wait until the condition holds; return False if a process ends before."""
        try:
            while not condition():
                if any(process.poll() is not None for process in self.processes):
                    return False
                time.sleep(0.001)
        except BaseException:
            self.kill()
            raise
        return True

    def kill(self) -> bool:
        """Kill all processes; return whether none had ended before."""
        for process in self.processes:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
        return {process.wait() for process in self.processes} == {-signal.SIGKILL}

    def end(self) -> None:
        self.wait(lambda: self.lines() < 0)
        for process in self.processes:
            process.wait()
        self.lines()

    def has_resumed(self) -> bool:
        return f"Resuming from {self.out}/checkpoint-{self.newest};".encode() in self.printed

    def problems(self) -> list[str]:
        texts = {log.name: log.read_text() for log in self.logs}
        found = [f"{name} has {word}" for name, text in texts.items() for word in TROUBLE if word in text]
        codes = {process.returncode for process in self.processes}
        if codes not in ({0}, {-signal.SIGKILL}):
            found.append(f"{self.logs[0].name}: exit codes {codes}")
        if self.newest and self.first and not self.has_resumed():
            found.append(f"{self.logs[0].name}: did not go on from checkpoint-{self.newest}")
        return found


class Whole(Start):
    """Run without kills; measure the steps, the logged steps, and the duration of a step and a save."""

    def __init__(self, args, folder: Path):
        super().__init__(args, folder / "whole", folder / "whole-log")
        looks = []
        self.wait(lambda: looks.append(self.lines() and self.saving()))
        seconds = time.monotonic() - self.begun
        self.end()
        if self.problems():
            sys.exit(f"the run fails without a kill: {self.logs[0].read_text()[-2000:]}")
        state = json.loads((self.out / "trainer_state.json").read_text())
        self.steps, self.save_steps = state["max_steps"], state["save_steps"]
        self.logged = [entry["step"] for entry in state["log_history"] if "loss" in entry]
        saving = seconds * mean(map(bool, looks))
        self.save_seconds = saving * self.save_steps / self.steps
        self.step_seconds = (seconds - self.first - saving) / self.steps
        print(f"whole: {self.steps} steps of {self.step_seconds:.3f} s, saves of {self.save_seconds:.3f} s", flush=True)


def environments(processes: int) -> list[dict[str, str]]:
    """Return the environment of each process as a launcher sets it."""
    # Unbuffered, to see lines as soon as they are printed.
    own = os.environ | {"PYTHONUNBUFFERED": "1"}
    if processes == 1:
        return [own]
    with socket.create_server(("127.0.0.1", 0)) as server:
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
    own |= {"WORLD_SIZE": str(processes), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return [own | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def command(args, out: Path) -> list[str]:
    """Return the command with defaults, which its own flags override."""
    head = 2 if not "".join(args.command[1:2]).startswith("-") else 1
    ours = ["--overwrite_output_dir", "false", "--output_dir", str(out), *["--use_cpu"] * (args.processes > 1)]
    defaults = ["--save_steps", "4", "--logging_steps", "1"]
    return [sys.executable, *args.command[:head], *defaults, *args.command[head:], *ours]


def run_with_kills(args, folder: Path, whole: Whole) -> tuple[list[Start], list[dict]]:
    """Start and kill repeatedly; let the last start run to its end."""
    rng, starts, kills = random.Random(args.seed), [], []
    for number in range(args.kills):
        start = Start(args, folder / "killed", folder / f"log-{number}")
        starts.append(start)
        moment = "save" if number % 2 == 0 else "start" if number % 10 == 9 else "step"
        # Spreads the kills evenly on average, and stays before the end.
        left = whole.steps - start.newest
        steps = int(rng.uniform(0, min(2 * left / (args.kills - number + 1), left - 3 * whole.save_steps)))
        if not wait_for_moment(start, moment, steps, whole, rng) or not start.kill():
            start.end()
            return starts, kills
        kills.append({"moment": moment} | record_loss(start, whole))
        print(number + 1, kills[-1], flush=True)
    starts.append(Start(args, folder / "killed", folder / "log-last"))
    starts[-1].end()
    return starts, kills


def wait_for_moment(start: Start, moment: str, steps: int, whole: Whole, rng: random.Random) -> bool:
    """Wait for ``steps`` more steps, or for the next save; return False if the run ends before."""
    if moment == "start":
        until = start.begun + rng.uniform(0, 0.8 * whole.first)
        return start.wait(lambda: time.monotonic() > until or start.lines() > 0)
    lines = max(1, bisect(whole.logged, start.newest + steps) - bisect(whole.logged, start.newest))
    if not start.wait(lambda: start.lines() >= lines):
        return False
    if moment == "save" and not start.wait(start.saving):
        return False
    time.sleep(rng.uniform(0, whole.save_seconds if moment == "save" else whole.step_seconds))
    return True


def record_loss(start: Start, whole: Whole) -> dict:
    """Return the state after a kill, and the number of steps to repeat, 0 before the first step."""
    newest = max(list_checkpoints(str(start.out)), default=0)
    last = bisect(whole.logged, start.newest) + start.lines() - 1
    lost = max(0, whole.logged[last] - newest) if start.first else 0
    return {"saving": bool(start.first) and start.saving(), "from": start.newest, "newest": newest, "lost": lost}


def differences(whole: Path, killed: Path) -> list[str]:
    """Return descriptions of the differences in weights, logs and metrics."""
    if not (killed / "all_results.json").exists():
        return ["the run with kills did not finish"]
    found, models = [], [folder / "model.safetensors" for folder in (whole, killed)]
    expected, weights = map(load_file, models)
    if weights.keys() != expected.keys() or not all(torch.equal(weights[name], expected[name]) for name in expected):
        found.append("different weights")
    elif models[0].read_bytes() != models[1].read_bytes():
        found.append("equal weights in different bytes")
    logs = [json.loads((folder / "trainer_state.json").read_text())["log_history"] for folder in (whole, killed)]
    # Without the entries of a resume, which only one run has.
    logs = [[without_speeds(entry) for entry in log if "resumed" not in entry] for log in logs]
    if logs[0] != logs[1]:
        steps = [entry["step"] for entry, other in zip(*logs, strict=False) if entry != other]
        found.append(
            f"different logs: {len(logs[0])} and {len(logs[1])} entries, {len(steps)} differ, first {steps[:1]}"
        )
    results = [json.loads((folder / "all_results.json").read_text()) for folder in (whole, killed)]
    names = [name for name in without_speeds(results[0]) if results[0][name] != results[1].get(name)]
    found.extend(f"{name}: {results[1].get(name)}, not {results[0][name]}" for name in names)
    return found


def without_speeds(figures: dict) -> dict:
    return {name: value for name, value in figures.items() if not name.endswith(SPEEDS)}


if __name__ == "__main__":
    main()
