"""Start the scripts as a user does, wait for what they print or write, and judge how they end, for faults.py."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# A model of one small layer on the bundled sample: a second of training, which is slow enough to be met in the middle.
LAST = 40
SMALL = shlex.split(
    "--config_overrides hidden_size=32,num_hidden_layers=1,num_attention_heads=2,intermediate_size=64,"
    f"max_position_embeddings=128 --max_steps {LAST} --save_steps 10 --logging_steps 1 --eval_strategy no "
    "--load_best_model_at_end false --overwrite_output_dir false --use_cpu"
)
# How the line of a training log begins.
LOSS = "train     "
# A step in the middle of a run, behind its first checkpoint.
MIDDLE = 14
# Seconds after which a process that should have ended is killed.
PATIENCE = 240.0
# Characters of an error at most: what is quoted in it may be of any length.
LONGEST_LINE = 5_000
TICKS = os.sysconf("SC_CLK_TCK")


class Run:
    """A process with a session of its own, and what it prints.

    Attributes:
        code: the exit code, or minus the signal that ended it; None while it runs.
        cpu: seconds of CPU time, once it has ended.
        peak: peak memory in MB until now.
    """

    def __init__(self, command: Sequence, log: Path, environment: dict[str, str], output: int | None = None, **popen):
        self.log, self.code, self.cpu, self.peak = log, None, 0.0, 0.0
        # Without a buffer, lines are seen when they are printed.
        environment = {"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONUNBUFFERED": "1"} | environment
        with open(log, "wb") as file:
            streams = {"stdin": subprocess.DEVNULL, "stdout": output or file, "stderr": file, "start_new_session": True}
            self.process = subprocess.Popen(
                [part if isinstance(part, bytes) else str(part) for part in command],
                cwd=ROOT,
                env=environment,
                **streams | popen,
            )
        self.pid = self.process.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def lines(self) -> list[str]:
        return [line.strip() for line in self.output.splitlines() if line.strip()]

    def ended(self) -> bool:
        if self.code is None:
            # Not of the usage, in which the kernel counts what this process had when it started the other.
            peak = re.search(r"VmHWM:\s*(\d+) kB", self.look("status"))
            self.peak = float(peak[1]) / 1e3 if peak else self.peak
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.code = self.process.returncode = os.waitstatus_to_exitcode(status)
                self.cpu = usage.ru_utime + usage.ru_stime
        return self.code is not None

    def look(self, name: str) -> str:
        """Return a file of /proc, empty once the process has ended."""
        try:
            return Path(f"/proc/{self.pid}/{name}").read_text()
        except OSError:
            return ""

    def cpu_so_far(self) -> float:
        """Return the seconds of CPU time until now."""
        fields = self.look("stat").rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / TICKS if fields else self.cpu

    def wait_for(self, condition: str | Callable[[], bool], seconds: float = PATIENCE) -> "Run":
        """Wait until the condition holds, or the text is printed; Wrong if the process ends before, or takes longer."""
        holds = (lambda: condition in self.output) if isinstance(condition, str) else condition
        until = time.monotonic() + seconds
        while not holds():
            if self.ended():
                # What it wrote last may be what was waited for.
                require(holds(), self, "ended before the fault")
                break
            require(time.monotonic() < until, self, f"nothing of what was expected in {seconds:.0f} s")
            time.sleep(0.002)
        return self

    def wait_for_step(self, step: int = MIDDLE) -> "Run":
        return self.wait_for(lambda: self.output.count(LOSS) >= step)

    def send(self, number: int) -> "Run":
        if not self.ended():
            os.kill(self.pid, number)
        return self

    def end(self, seconds: float = PATIENCE, cpu: float = PATIENCE) -> "Run":
        """Wait for the end; Wrong if it takes longer, or more CPU time."""
        until = time.monotonic() + seconds
        while not self.ended():
            if time.monotonic() > until or self.cpu_so_far() > cpu:
                self.kill()
                raise Wrong(self, f"no end after {self.cpu:.0f} s of CPU time")
            time.sleep(0.01)
        return self

    def kill(self) -> None:
        """Kill the process and those it started."""
        while not self.ended():
            os.killpg(self.pid, signal.SIGKILL)
            time.sleep(0.01)

    def last_words(self) -> str:
        """Return the line that says best how it ended."""
        lines = [line for line in self.lines if not line.startswith("LEFT ")] or ["(nothing printed)"]
        if "Traceback" in self.output:
            raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt|Exit)(:|$)", line)]
            return (raised or lines)[-1]
        said = [line for line in lines if line.startswith(("error:", "Stopped by", "Saved in", "Prepared"))]
        return (said or lines)[-1]


class Wrong(Exception):  # noqa: N818
    """An outcome that is not the right one."""

    def __init__(self, run: Run, why: str):
        super().__init__(why)
        self.run = run


class Skipped(Exception):  # noqa: N818
    """A fault that cannot be provoked on this machine."""


@dataclass(frozen=True)
class Outcome:
    """What a user sees of a run: a line, and the exit code."""

    run: Run
    line: str


@dataclass(frozen=True)
class Fault:
    topic: str
    title: str
    provoke: Callable[["Case"], Outcome]

    @property
    def name(self) -> str:
        return self.provoke.__name__


FAULTS: list[Fault] = []


def fault(topic: str, title: str) -> Callable:
    """Add a function to the faults; it provokes one, and returns the outcome, or raises Wrong."""

    def add(provoke: Callable[["Case"], Outcome]) -> Callable:
        FAULTS.append(Fault(topic, title, provoke))
        return provoke

    return add


class Case:
    """A fault's folder, and its processes, none of which outlives it."""

    def __init__(self, folder: Path, undisturbed: Callable[..., Path], logs: Path | None = None):
        self.folder, self.undisturbed, self.logs = folder, undisturbed, logs or folder
        self.runs: list[Run] = []
        for path in (folder, self.logs):
            path.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Case":
        return self

    def __exit__(self, *error) -> None:
        for run in self.runs:
            run.kill()

    def start(self, command: Sequence, *, environment: dict[str, str] | None = None, **popen) -> Run:
        log = self.logs / f"log-{len(self.runs)}"
        self.runs.append(Run(command, log, environment or {}, **popen))
        return self.runs[-1]

    def command(self, *flags, script: str = "run_mlm.py", out: str = "out", cache: str = "cache") -> list:
        """Return a small run of the quickstart; flags win over its own."""
        recipe = f"recipes/quickstart/{script[4:-3]}.yaml"
        folders = ["--cache_dir", self.folder / cache, "--output_dir", self.folder / out]
        return [sys.executable, script, recipe, *SMALL, *folders, *flags]

    def train(self, *flags, **names) -> Run:
        """Start a small run of the quickstart."""
        return self.start(self.command(*flags, **names))

    def stop_and_resume(self, *flags, number: int = signal.SIGTERM) -> Run:
        """Stop a run in the middle, which has to be saved there, and run the same command again."""
        stopped = self.train(*flags).wait_for_step().send(number).end()
        require_code(stopped, 75)
        return self.train(*flags).end()

    def copy_cache(self) -> Path:
        """Return a cache of one's own that has all that the undisturbed run prepared."""
        cache = self.folder / "cache"
        shutil.copytree(self.undisturbed().parent / "cache", cache)
        return cache

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def write_text(self, name: str = "text.txt", times: int = 1) -> Path:
        """Write the bundled sample, some times over, to a file."""
        texts = [path.read_text().strip() for path in sorted((ROOT / "sample").glob("*.txt"))]
        return self.write(name, "\n\n".join(texts * times) + "\n")


class Undisturbed:
    """Runs to compare with, one for each list of flags, started when they are first asked for.

    Called with flags, it returns the run's output_dir, beside which its ``cache`` is.
    """

    def __init__(self, folder: Path):
        self.folder, self.lock, self.done = folder, threading.Lock(), {}

    def __call__(self, *flags, script: str = "run_mlm.py") -> Path:
        key = (script, *map(str, flags))
        with self.lock:
            if key not in self.done:
                with Case(self.folder / f"undisturbed-{len(self.done)}", self) as case:
                    run = case.train(*flags, script=script).end()
                    if run.code != 0:
                        raise RuntimeError(f"a run fails without a fault: {run.last_words()}")
                    self.done[key] = case.folder / "out"
            return self.done[key]


# How to run


def small_disk(folder: Path, kilobytes: int, command: Sequence) -> list:
    """Return the command with a small disk mounted at the folder; the files left on it are printed."""
    if not shutil.which("unshare"):
        raise Skipped("no unshare to mount a small disk with")
    folder.mkdir(exist_ok=True)
    script = (
        f'mount -t tmpfs -o size={kilobytes}k small "{folder}" || exit 99; "$@"; code=$?; '
        f'find "{folder}" -type f -printf "LEFT %P\\n"; exit $code'
    )
    own = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", "--mount", *own, "sh", "-c", script, "sh", *command]


def without_privileges(command: Sequence) -> list:
    """Return the command so that permissions hold for root as well."""
    if os.geteuid() != 0:
        return list(command)
    if not shutil.which("setpriv"):
        raise Skipped("no setpriv to take root's privileges away with")
    return ["setpriv", "--bounding-set=-all", "--", *command]


# How to judge


def require(holds: bool, run: Run, why: str) -> None:
    if not holds:
        raise Wrong(run, why)


def require_code(run: Run, *codes: int) -> None:
    traceback = "a traceback, " if "Traceback" in run.output else ""
    wanted = " or ".join(map(str, codes))
    require(run.code in codes and not traceback, run, f"{traceback}exit code {run.code}, right is {wanted}")


def one_line(run: Run, *names: str, cpu: float = PATIENCE, memory: float = float("inf")) -> Outcome:
    """Judge a user's fault: right are exit code 2 and one line with the names, within CPU seconds and MB."""
    run.end(cpu=cpu)
    errors = [line for line in run.lines if line.startswith("error:")]
    require_code(run, 2)
    require(len(errors) == 1, run, f"{len(errors)} lines with error:")
    require(len(errors[0]) < LONGEST_LINE, run, f"a line of {len(errors[0]):,} characters")
    for name in names:
        require(name in errors[0], run, f"the line does not have {name!r}")
    require(run.peak < memory, run, f"{run.peak:,.0f} MB, more than {memory:,.0f}")
    return Outcome(run, errors[0])


def same_result(run: Run, expected: Path, out: Path, line: str | None = None) -> Outcome:
    """Judge a fault that must cost nothing: exit code 0, weights and logs of the undisturbed run."""
    from kill_resume import differences  # imports torch

    run.end()
    require_code(run, 0)
    require("--- Logging error ---" not in run.output, run, "Logging error")
    found = differences(expected, out)
    require(not found, run, "; ".join(found))
    return Outcome(run, line or run.last_words())


def nothing_lost(case: Case, run: Run, *flags) -> Outcome:
    """Judge what may stop a run: right is to go on, or to save, end with 75, and go on when run again."""
    require_code(run.end(), 0, 75)
    if run.code == 0:
        return same_result(run, case.undisturbed(*flags), case.folder / "out")
    again = case.train(*flags)
    same_result(again, case.undisturbed(*flags), case.folder / "out")
    return Outcome(run, f"{run.last_words()}; then: {again.last_words()}")


def line_with(run: Run, *patterns: str) -> str:
    """Return the first line with all of the patterns; Wrong if there is none."""
    for line in run.lines:
        if all(re.search(pattern, line, re.IGNORECASE) for pattern in patterns):
            return line
    raise Wrong(run, f"nothing printed with {' and '.join(patterns)}")
