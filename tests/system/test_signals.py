"""Test signals at each stage of a run: exit code, remaining files, and that the same command resumes.

Signals in the middle of steps, to processes of their own, are in test_resuming.py.
"""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import run_mlm
from cloze import cli as commandline
from cloze.reporting import summary as report
from cloze.system.signals import SIGNALS, exit_while_importing, install_handler
from cloze.tokenization import token_cache as preparation
from cloze.tokenization import training as tokenization
from cloze.training import run as training
from cloze.training.checkpoints import list_checkpoints
from cloze.training.trainer import PretrainingTrainer
from tests.utils import ROOT, slow_but

SCRIPTS = ("run_classification.py", "run_clm.py", "run_plm.py", "run_mlm.py", "run_nsp.py", "run_pretraining.py")
CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGHUP: 75, signal.SIGINT: 130}

# Replaces the first imported library: it gets a signal and swallows exceptions, as some libraries do.
LIBRARY = """
import os
print("caf\\u00e9", flush=True)
try:
    os.kill(os.getpid(), int(os.environ["NUMBER"]))
except:
    pass
print("going on", flush=True)
os._exit(0)
"""


@pytest.fixture(autouse=True)
def _handlers():
    """Restore the handlers after each test; handle SIGHUP even if the tests run under nohup."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# While Python imports


@pytest.fixture
def import_with(tmp_path):
    """Return ``import_with(number, *argv)``: exit code and output of a command that gets a signal."""
    (tmp_path / "torch.py").write_text(LIBRARY)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONIOENCODING": "ascii:replace"}

    def run(number, *argv) -> tuple[int, str]:
        result = subprocess.run(
            argv,
            cwd=ROOT,
            env=environment | {"NUMBER": str(int(number))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return result.returncode, result.stdout

    return run


IMPORTS = [(script, number) for script in SCRIPTS for number in CODES]
QUICK = [(script, signal.SIGTERM) for script in SCRIPTS] + [("run_mlm.py", number) for number in CODES]


@pytest.mark.parametrize(("script", "number"), slow_but(QUICK, IMPORTS))
def test_signal_during_imports_exits_with_its_code(script, number, import_with):
    assert import_with(number, sys.executable, script) == (CODES[number], "caf\\xe9\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_signal_during_imports_of_the_page_ends_it(number, code, import_with):
    """The page ends as servers do."""
    assert import_with(number, sys.executable, "app.py") == (code, "caf\\xe9\n")


def test_nohup_ignores_sighup(import_with):
    code, printed = import_with(signal.SIGHUP, "nohup", sys.executable, "run_mlm.py")
    assert code == 0
    assert printed.endswith("caf\\xe9\ngoing on\n")


def test_importing_a_script_changes_neither_handlers_nor_output(import_with):
    assert import_with(signal.SIGTERM, sys.executable, "-c", "import run_mlm") == (-signal.SIGTERM, "caf?\n")


# In a run


@pytest.fixture(scope="module")
def command(texts, tmp_path_factory):
    """Return ``command(out)``: the command line of a run of 8 steps with its own caches."""
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("\n\n".join("\n".join(texts[i : i + 6]) for i in range(0, 36, 6)))
    model = "hidden_size=16,num_hidden_layers=2,num_attention_heads=2,intermediate_size=32,max_position_embeddings=66"

    def make(out) -> list[str]:
        argv = (
            "--model_type", "bert", "--config_overrides", model, "--vocab_size", 200, "--train_file", text,
            "--max_seq_length", 32, "--do_train", "--max_steps", 8, "--per_device_train_batch_size", 4,
            "--save_steps", 6, "--save_total_limit", 9, "--output_dir", out, "--cache_dir", out.with_suffix(".cache"),
        )  # fmt: skip
        return [str(argument) for argument in argv]

    return make


@pytest.fixture
def train(run_mlm_script, command):
    """Return ``train(out)``, which returns exit code, stdout and stderr."""
    return lambda out: run_mlm_script(*command(out))


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """Return the folder of a run without a signal."""
    out = tmp_path_factory.mktemp("whole") / "out"
    commandline.run_script(run_mlm.main, command(out))
    return out


def kill_in(monkeypatch, owner, name, *numbers):
    """Send the signals at the start of the first call of the function."""
    function, left = getattr(owner, name), list(numbers)

    @functools.wraps(function)
    def signalled(*args, **kwargs):
        while left:
            os.kill(os.getpid(), left.pop(0))
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, signalled)


def left_in(out):
    """Return what a run left: cache entries, steps of checkpoints, whether model and model card exist."""
    caches = [path.name.split("-")[0] for path in out.with_suffix(".cache").glob("cloze/*") if not path.suffix]
    return (
        sorted(caches),
        list(list_checkpoints(str(out))),
        [(out / n).exists() for n in ("model.safetensors", "README.md")],
    )


BOTH, NO_MODEL = ["corpus", "tokenizer"], [False, False]
# The function in which each signal arrives, run by run, and what the first and the last run leave.
MOMENTS = {
    "settings": (commandline, "parse", ([], [], NO_MODEL), ([], [], NO_MODEL)),
    "tokenizer": (tokenization, "train_pieces", ([], [], NO_MODEL), ([], [], NO_MODEL)),
    "preparation": (preparation, "write", (["tokenizer"], [], NO_MODEL), (["tokenizer"], [], NO_MODEL)),
    "model": (training, "make_model", (BOTH, [], NO_MODEL), (BOTH, [], NO_MODEL)),
    "step": (PretrainingTrainer, "compute_loss", (BOTH, [1], NO_MODEL), (BOTH, [1, 2, 3, 4], NO_MODEL)),
    "summary": (report, "summarise_run", (BOTH, [6, 8], [True, False]), (BOTH, [6, 8], [True, False])),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_run_stopped_at_any_moment_resumes_by_the_same_command(moment, train, whole, tmp_path, monkeypatch):
    owner, name, first, last = MOMENTS[moment]
    out = tmp_path / "out"
    left = []
    for number, code in CODES.items():
        with monkeypatch.context() as patched:
            kill_in(patched, owner, name, number)
            assert train(out)[0] == code
        left.append(left_in(out))
    assert (left[0], left[-1]) == (first, last)
    assert train(out)[0] == 0
    weights, expected = (load_file(folder / "model.safetensors") for folder in (out, whole))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert (out / "README.md").exists()


@pytest.mark.parametrize("number", CODES)
def test_signal_during_a_save_completes_the_checkpoint(number, train, tmp_path, monkeypatch):
    kill_in(monkeypatch, PretrainingTrainer, "write_state", number)
    assert train(tmp_path / "out")[0] == CODES[number]
    assert left_in(tmp_path / "out") == (BOTH, [6, 7], NO_MODEL)


def test_second_ctrl_c_ends_at_once(train, tmp_path, monkeypatch):
    kill_in(monkeypatch, PretrainingTrainer, "compute_loss", signal.SIGINT, signal.SIGINT)
    code, printed, errors = train(tmp_path / "out")
    assert (code, errors) == (130, "")
    assert "Stopped by a signal" not in printed
    assert left_in(tmp_path / "out") == (BOTH, [], NO_MODEL)


def test_killed_workers_at_exit_are_no_error(run_mlm_script, command, tmp_path, monkeypatch):
    """torch's handler of SIGCHLD would raise an error for them at any point."""
    kill = multiprocessing.process.BaseProcess.kill

    def kill_and_wait(worker):
        kill(worker)
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "kill", kill_and_wait)
    kill_in(monkeypatch, PretrainingTrainer, "compute_loss", signal.SIGINT, signal.SIGINT)
    code, _, errors = run_mlm_script(*command(tmp_path / "out"), "--dataloader_num_workers", 2)
    assert (code, errors) == (130, "")


@pytest.mark.parametrize("number", CODES)
def test_signal_after_the_end_exits_with_0(number, train, tmp_path, monkeypatch):
    """Signals after the last file, and while Python exits, as in a process of its own."""
    install_handler(exit_while_importing)
    kill_in(monkeypatch, commandline.multiprocessing, "active_children", number)
    assert train(tmp_path / "out")[0] == 0
    os.kill(os.getpid(), number)
    assert left_in(tmp_path / "out") == (BOTH, [6, 8], [True, True])
