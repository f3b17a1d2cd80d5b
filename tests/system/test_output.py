"""Test lost output: closed pipes, full disks, closed terminals, characters that cannot be encoded."""

import io
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from cloze.system.output import OutputFile
from tests.utils import SAMPLE, start


@pytest.fixture
def other():
    """Return ``other``: its ``descriptor`` replaces stderr, and ``other()`` returns what was written to it."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)

    def read() -> str:
        try:
            return os.read(reader, 1_000).decode()
        except BlockingIOError:
            return ""

    read.descriptor = writer
    yield read
    os.close(reader)
    os.close(writer)


def stream_over(descriptor, other):
    return io.TextIOWrapper(io.BufferedWriter(OutputFile("stdout", descriptor, other.descriptor)), line_buffering=True)


@pytest.mark.parametrize(("make", "reason"), [(os.pipe, "Broken pipe"), (os.openpty, "Input/output error")])
def test_output_without_reader_is_dropped(make, reason, other):
    reader, writer = make()
    stream = stream_over(writer, other)
    print("seen", file=stream)
    assert os.read(reader, 4) == b"seen"
    os.close(reader)
    for line in ("lost\n", "lost, too\n"):
        assert stream.write(line) == len(line)
    assert other() == f"warning: cannot write to stdout ({reason}): continuing without it\n"
    assert os.write(writer, b"by a library in C") == 17
    os.close(writer)


def test_log_on_a_full_disk_continues_when_there_is_space(other, tmp_path):
    """A file replaces the device that is always full."""
    full, log = os.open("/dev/full", os.O_WRONLY), os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    stream = stream_over(full, other)
    for line in ("lost", "lost, too"):
        print(line, file=stream)
    assert other() == "warning: cannot write to stdout (No space left on device): continuing without it\n"
    os.dup2(log, full)
    print("written", file=stream)
    assert (tmp_path / "log").read_text() == "written\n"
    os.close(full)
    os.close(log)


def run_python(code, redirection="", **environment):
    command = f'exec "{sys.executable}" -c "$CODE" {redirection}'
    environment = (
        os.environ | {"CODE": f"from cloze.system import output\noutput.tolerate_output_errors()\n{code}"} | environment
    )
    return subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("redirection", [">/dev/full", "2>/dev/full", ">/dev/full 2>&1"])
def test_exit_code_survives_a_full_disk(redirection, unbuffered):
    """Python flushes at exit, and would end with exit code 120."""
    code = "import sys\nprint(1)\nprint(2, file=sys.stderr)\nsys.exit(75)"
    result = run_python(code, redirection, PYTHONUNBUFFERED=unbuffered)
    assert result.returncode == 75
    assert "Traceback" not in result.stdout + result.stderr
    assert (result.stdout + result.stderr).count("warning: cannot write to std") == ("2>&1" not in redirection)


def test_files_do_not_replace_closed_streams(tmp_path):
    code = f"import sys\nfile = open('{tmp_path}/data', 'w')\nprint(1)\nprint(2, file=sys.stderr)\nfile.write('mine')"
    assert run_python(code, "<&- >&- 2>&-").returncode == 0
    assert (tmp_path / "data").read_text() == "mine"


def test_unencodable_characters_are_escaped():
    result = run_python("print('caf\\u00e9 \\udcff')", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert (result.returncode, result.stdout, result.stderr) == (0, "caf\\xe9 \\udcff\n", "")


def test_run_whose_reader_ends_trains_to_the_same_weights(run_mlm_script, tmp_path):
    """As in ``run_mlm.py ... | head -1``."""
    model = "hidden_size=16,num_hidden_layers=2,num_attention_heads=2,intermediate_size=32,max_position_embeddings=66"
    argv = (
        "--model_type", "bert", "--config_overrides", model, "--vocab_size", 600, "--train_file", SAMPLE / "music.txt",
        "--max_seq_length", 32, "--do_train", "--max_steps", 4, "--logging_steps", 1,
    )  # fmt: skip
    assert run_mlm_script(*argv, "--output_dir", tmp_path / "whole")[0] == 0
    os.mkfifo(tmp_path / "pipe")
    process = start("run_mlm", *argv, "--output_dir", tmp_path / "out", log=tmp_path / "pipe")
    with open(tmp_path / "pipe") as pipe:
        assert pipe.readline()
    process.join()
    assert process.exitcode == 0
    weights, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "whole"))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
