"""Test benchmarks/faults.py with shell commands instead of the scripts: its waits and its checks."""

import json
import re
import signal
import sys

import fault_runs
import faults
import pytest
from fault_runs import Case, Fault, Outcome, Run, Skipped, Wrong, line_with, nothing_lost, one_line, same_result
from safetensors.torch import save_file
from torch import zeros


@pytest.fixture
def case(tmp_path):
    def undisturbed(*flags):
        return write_run(tmp_path / "undisturbed")

    with Case(tmp_path / "case", undisturbed) as case:
        yield case


def write_run(folder, loss=2.0):
    """Write the files of a finished run with this loss at step 1."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"weight": zeros(2)}, folder / "model.safetensors")
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": [{"step": 1, "loss": loss}]}))
    (folder / "all_results.json").write_text("{}")
    return folder


def ends(case, code, *lines):
    """Start a process that prints these lines and exits with this code."""
    script = "printf '%s\\n' \"$@\"; exit " + str(code)
    return case.start(["sh", "-c", script, "sh", *lines])


# Waiting


def test_run_waits_for_printed_text(case):
    run = case.start(["sh", "-c", "echo begun; exec sleep 60"]).wait_for("begun", seconds=20)
    assert run.code is None
    assert run.send(signal.SIGKILL).end(seconds=20).code == -signal.SIGKILL


def test_fault_fails_if_the_process_ends_before_it(case):
    with pytest.raises(Wrong, match="ended before the fault"):
        ends(case, 0, "done").wait_for("a step")


def test_run_matches_the_last_printed_text(case):
    run = ends(case, 0, "done").end()
    assert run.wait_for("done") is run


def test_run_kills_a_process_that_takes_too_long(case):
    run = case.start(["sh", "-c", "while :; do :; done"])
    with pytest.raises(Wrong, match="no end after"):
        run.end(cpu=0.1)
    assert run.code == -signal.SIGKILL
    assert run.cpu >= 0.1


def test_fault_leaves_no_process_behind(tmp_path):
    with Case(tmp_path, None) as case:
        run = case.start(["sleep", "60"])
        run.send(signal.SIGSTOP)
    assert run.code == -signal.SIGKILL


# Checks


def test_one_line_end_is_accepted(case):
    outcome = one_line(ends(case, 2, "a log", "error: no text in a.txt"), "a.txt")
    assert (outcome.line, outcome.run.code) == ("error: no text in a.txt", 2)


@pytest.mark.parametrize(
    ("code", "lines", "why"),
    [
        (0, ["error: no text"], "exit code 0, expected 2"),
        (2, ["Traceback (most recent call last):", "ValueError: no text"], "a traceback, exit code 2"),
        (2, ["a log"], "0 lines start with error:"),
        (2, ["error: one", "error: two"], "2 lines start with error:"),
        (2, ["error: nothing"], "the error does not name 'text'"),
        (2, [f"error: text {'9' * 6000}"], "an error line of 6,012 characters"),
    ],
)
def test_other_ends_than_one_line_fail(case, code, lines, why):
    with pytest.raises(Wrong, match=re.escape(why)):
        one_line(ends(case, code, *lines), "text")


def test_peak_memory_is_bounded(case):
    run = ends(case, 2, "error: text").end()
    run.peak = 1_500.0
    with pytest.raises(Wrong, match="1,500 MB, more than 900"):
        one_line(run, memory=900)
    assert one_line(run, memory=2_000).line == "error: text"


def test_peak_memory_is_that_of_the_process(case):
    # A small process, whatever the memory of this one.
    run = case.start(["sh", "-c", "echo begun; exec sleep 60"]).wait_for("begun")
    run.kill()
    assert 0 < run.peak < 50


def test_same_result_compares_weights(case):
    out = write_run(case.folder / "out")
    outcome = same_result(ends(case, 0, "Saved in out"), case.undisturbed(), out)
    assert outcome.line == "Saved in out"
    write_run(out, loss=2.5)
    with pytest.raises(Wrong, match="different logs"):
        same_result(ends(case, 0), case.undisturbed(), out)
    with pytest.raises(Wrong, match="exit code 75, expected 0"):
        same_result(ends(case, 75), case.undisturbed(), out)


def test_stopped_run_has_to_resume(case, monkeypatch):
    write_run(case.folder / "out")
    monkeypatch.setattr(case, "train", lambda: ends(case, 0, "Saved in out"))
    outcome = nothing_lost(case, ends(case, 75, "Stopped by a signal"))
    assert (outcome.line, outcome.run.code) == ("Stopped by a signal; then: Saved in out", 75)
    monkeypatch.setattr(case, "train", lambda: ends(case, 2, "error: already contains a model"))
    with pytest.raises(Wrong, match="exit code 2, expected 0"):
        nothing_lost(case, ends(case, 75))


def test_expected_line_has_to_be_printed(case):
    run = ends(case, 0, "Prepared a", "Waiting for b").end()
    assert line_with(run, "wait", "b") == "Waiting for b"
    with pytest.raises(Wrong, match="no line matches wait and c"):
        line_with(run, "wait", "c")


def test_last_words_are_the_error_or_the_last_line(case):
    raised = ends(
        case, 1, "Traceback (most recent call last):", "ValueError: why", "Exception ignored in: b", "  c"
    ).end()
    assert raised.last_words() == "ValueError: why"
    assert ends(case, 0, "Saved in out", "guesses").end().last_words() == "Saved in out"
    assert ends(case, 0).end().last_words() == "(nothing printed)"


# The command


@pytest.fixture
def stand_ins(monkeypatch):
    """Replace the faults by four: one right, one wrong, one that raises, and one that is skipped."""

    def good(case):
        return Outcome(ends(case, 2, "error: no text").end(), f"error: {case.folder}/text")

    def bad(case):
        return one_line(ends(case, 0, "Saved in out"))

    def broken(case):
        raise ValueError("why")

    def untried(case):
        raise Skipped("no mount")

    found = [Fault("first", "good", good), Fault("second", "bad", bad)]
    found += [Fault("second", "broken", broken), Fault("second", "untried", untried)]
    monkeypatch.setattr(faults, "FAULTS", found)


def start(capsys, *argv):
    """Run the benchmark; return its exit code, the rows of the table, and the line of JSON."""
    with pytest.raises(SystemExit) as end:
        faults.main(argv)
    *table, summary = capsys.readouterr().out.splitlines()
    return end.value.code, [[cell.strip() for cell in row.split("|")] for row in table], json.loads(summary)


def test_table_lists_each_fault(capsys, stand_ins, tmp_path):
    code, table, summary = start(capsys, "--folder", str(tmp_path))
    assert code == 1
    assert table == [
        ["fault", "outcome", "exit code", "judged"],
        ["good", "error: text", "2", "right"],
        ["bad", "Saved in out", "0", "WRONG: exit code 0, expected 2"],
        ["broken", "", "-", "WRONG: ValueError: why"],
        ["untried", "", "-", "not tried: no mount"],
        ["1 of 3 right"],
    ]
    assert (summary["right"], summary["tried"], len(summary["faults"])) == (1, 3, 4)
    assert (tmp_path / "bad/log-0").read_text() == "Saved in out\n"


def test_faults_are_selected_by_topic_or_name(capsys, stand_ins):
    code, table, _ = start(capsys, "first")
    assert (code, [row[0] for row in table]) == (0, ["fault", "good", "1 of 1 right"])
    code, table, _ = start(capsys, "bad", "first", "--jobs", "1")
    assert (code, [row[0] for row in table]) == (1, ["fault", "good", "bad", "1 of 2 right"])
    with pytest.raises(SystemExit):
        faults.main(["third"])
    assert "unknown: third" in capsys.readouterr().err


def test_fault_names_differ_from_each_other_and_from_topics():
    names = [fault.name for fault in fault_runs.FAULTS]
    topics = {fault.topic for fault in fault_runs.FAULTS}
    assert len(set(names)) == len(names) > 40
    assert not topics & set(names)


def test_case_runs_python_unbuffered_in_the_repository(case):
    run = case.start([sys.executable, "-c", "import os; print(os.environ['PYTHONUNBUFFERED'], os.getcwd())"]).end()
    assert isinstance(run, Run)
    assert run.lines == [f"1 {fault_runs.ROOT}"]
