"""The lines of a run while it trains: exact, aligned, one for each log, below one header."""

import contextlib
import io
import os
import pty
import re
import sys
import termios
from types import SimpleNamespace

import pytest
from transformers import PrinterCallback, ProgressCallback, TrainerControl, TrainerState
from transformers.trainer_callback import CallbackHandler

from cloze.tasks.classification import CLASSIFICATION
from cloze.tasks.masked_lm import MASKED_LM
from cloze.tasks.next_sentence import NEXT_SENTENCE
from cloze.tasks.pretraining import PRETRAINING
from cloze.training import live_table
from cloze.training.live_table import (
    LiveTable,
    columns_for,
    format_duration,
    format_header,
    format_log,
    show_live_table,
)

MLM_LOGS = [
    {"eval_loss": 6.9588, "eval_perplexity": 1052.53, "eval_accuracy": 0.00123, "epoch": 0.0, "step": 0},
    {"loss": 6.6121, "accuracy": 0.029, "tokens_per_second": 27173.4, "epoch": 0.56, "step": 100, "eta": 61.2},
    {"loss": 6.1, "accuracy": 0.0372, "tokens_per_second": 999.6, "epoch": 12.111, "step": 1_200, "eta": 0.0},
    {"eval_loss": 4.5, "eval_perplexity": 90.017, "eval_accuracy": 0.25, "epoch": 12.111, "step": 1_200},
]
BOTH = {"loss": 7.5, "mlm_loss": 6.75, "mlm_accuracy": 0.1, "nsp_loss": 0.75, "nsp_accuracy": 0.5}
BOTH_EVALUATED = {
    "eval_loss": 7.5, "eval_mlm_loss": 6.75, "eval_mlm_perplexity": 854.06, "eval_mlm_accuracy": 0.1,
    "eval_nsp_loss": 0.75, "eval_nsp_accuracy": 0.5, "eval_nsp_f1": 0.625,
}  # fmt: skip


def lines_of(logs, columns):
    return [*format_header(columns), *(line for entry in logs for line in format_log(entry, columns))]


def test_lines_of_masked_tokens():
    assert lines_of(MLM_LOGS, columns_for(MASKED_LM.objectives, 1_200)) == [
        "                                     masked    masked",
        "           step   epoch    loss  perplexity  accuracy   tokens/s       ETA",
        "held-out      0    0.00   6.959    1,052.53      0.1%",
        "train       100    0.56   6.612                  2.9%     27,173      1:01",
        "train     1,200   12.11   6.100                  3.7%      1,000      0:00",
        "held-out  1,200   12.11   4.500       90.02     25.0%",
    ]


def test_each_held_out_set_has_a_line():
    names = ["law", "encyclopedia"]
    values = {"law_loss": 4.5, "law_perplexity": 90.017, "law_accuracy": 0.25, "encyclopedia_loss": 6.5}
    logs = {f"eval_{name}": value for name, value in values.items()} | {"eval_loss": 4.5, "epoch": 0.5, "step": 20}
    columns = columns_for(MASKED_LM.objectives, 100)
    assert [*format_header(columns, names), *format_log(logs, columns, names)] == [
        "                                        masked    masked",
        "              step   epoch    loss  perplexity  accuracy   tokens/s       ETA",
        "law             20    0.50   4.500       90.02     25.0%",
        "encyclopedia    20    0.50   6.500",
    ]
    assert format_log(MLM_LOGS[1], columns, names)[0].startswith("train          100    0.56   6.612")


def test_lines_of_both_objectives():
    columns = columns_for(PRETRAINING.objectives, 50, with_epoch=False)
    logs = [BOTH_EVALUATED | {"step": 0}, BOTH | {"step": 50, "tokens_per_second": 5.0, "eta": 3_725.0, "epoch": 0.5}]
    assert lines_of(logs, columns) == [
        "                            masked    masked      pair    pair",
        "          step    loss  perplexity  accuracy  accuracy      F1   tokens/s       ETA",
        "held-out     0   7.500      854.06     10.0%     50.0%   0.625",
        "train       50   7.500                 10.0%     50.0%                  5   1:02:05",
    ]


@pytest.mark.parametrize(
    ("task", "titles"),
    [
        (NEXT_SENTENCE, "step epoch loss accuracy F1 tokens/s ETA"),
        (CLASSIFICATION, "step epoch loss accuracy macro-F1 tokens/s ETA"),
    ],
)
def test_columns_of_a_task(task, titles):
    columns = columns_for(task.objectives, 10)
    assert format_header(columns)[-1].split() == titles.split()


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (200, "step epoch loss perplexity accuracy accuracy F1 tokens/s ETA"),
        (80, "step loss perplexity accuracy accuracy tokens/s ETA"),
        (50, "step loss tokens/s ETA"),
        (10, "step loss"),
    ],
)
def test_narrow_terminal_has_fewer_columns(width, titles):
    columns = columns_for(PRETRAINING.objectives, 100, max_width=width)
    lines = lines_of([BOTH_EVALUATED | {"step": 100}, BOTH | {"step": 100}], columns)
    assert format_header(columns)[-1].split() == titles.split()
    assert max(map(len, lines)) <= max(width, 30)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3_725, "1:02:05"), (360_000, "100:00:00")]
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


# The callback


class Clock:
    """The stop callback of a run that is limited to some hours, or not."""

    def __init__(self, limit=None, seconds=0.0):
        self.limit, self.seconds = limit, seconds


def make_table(clock=None, step=0):
    """A table of a run of 100 steps, started at a step; with its state."""
    stream = SimpleNamespace(steps_in_epoch=10)
    trainer = SimpleNamespace(
        objectives=MASKED_LM.objectives, stream=stream, stop_callback=clock or Clock(), held_out_names=[""]
    )
    return LiveTable(trainer), TrainerState(max_steps=100, global_step=step, is_world_process_zero=True)


def play(table, state, logs, seconds=0.0, monkeypatch=None, disable_tqdm=True):
    """Let the table see the start of a run and its logs, at the given seconds after the start."""
    args, control = SimpleNamespace(disable_tqdm=disable_tqdm), TrainerControl()
    table.on_train_begin(args, state, control)
    if monkeypatch is not None:
        times = iter([1_000.0, *[1_000.0 + seconds] * len(logs)])
        monkeypatch.setattr(live_table.time, "monotonic", lambda: next(times))
    state.global_step += 1
    table.on_step_end(args, state, control)
    for entry in logs:
        state.global_step = entry["step"]
        logged = {name: value for name, value in entry.items() if name not in ("step", "eta")}
        state.log_history.append(entry)
        table.on_step_end(args, state, control)
        table.on_log(args, state, control, logs=logged)
    table.on_train_end(args, state, control)


def log(step):
    return {"step": step, "loss": 5.0, "epoch": step / 10}


def test_one_header_and_a_line_for_each_log(capsys):
    play(*make_table(), [*MLM_LOGS, {"step": 1_200, "train_loss": 6.0, "train_runtime": 9.0}, MLM_LOGS[-1]])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line.split()[0] for line in lines if line] == [
        "masked", "step", "held-out", "train", "train", "held-out",
    ], "the last evaluation repeats the one before"  # fmt: skip
    assert printed.err == ""


def test_evaluation_after_training_has_a_line_where_it_is_new(capsys):
    play(*make_table(), [log(100), {"step": 100, "train_loss": 6.0}, MLM_LOGS[-1]])
    assert capsys.readouterr().out.splitlines()[-1].startswith("held-out")


def test_evaluation_without_training_has_no_line(capsys):
    table, state = make_table()
    state.log_history.append(MLM_LOGS[0])
    table.on_log(SimpleNamespace(disable_tqdm=True), state, TrainerControl(), logs=MLM_LOGS[0])
    assert capsys.readouterr().out == ""


def test_other_processes_print_nothing(capsys):
    table, state = make_table()
    state.is_world_process_zero = False
    play_logs = [log(1), MLM_LOGS[-1]]
    args, control = SimpleNamespace(disable_tqdm=False), TrainerControl()
    table.on_train_begin(args, state, control)
    for entry in play_logs:
        state.log_history.append(entry)
        table.on_step_end(args, state, control)
        table.on_log(args, state, control, logs=entry)
    table.on_train_end(args, state, control)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("start", "step", "clock", "eta"),
    [
        (0, 51, None, "0:59"),
        (40, 51, None, "4:54"),
        (0, 100, None, "0:00"),
        (0, 1, None, "5.000"),
        (0, 50, Clock(3_600, 3_000), "10:00"),
    ],
)
def test_eta_counts_the_steps_since_the_start_or_the_hours_left(start, step, clock, eta, monkeypatch, capsys):
    """Resumed at step 40, ten steps took the minute; the first step has a loss only."""
    play(*make_table(clock, start), [log(step)], 60.0, monkeypatch)
    assert capsys.readouterr().out.split()[-1] == eta


def test_stream_has_no_epochs(capsys):
    table, state = make_table()
    table.trainer.stream.steps_in_epoch = None
    play(table, state, [log(10)])
    assert "epoch" not in capsys.readouterr().out


def test_terminal_has_a_bar_below_lines_that_fit(monkeypatch):
    """Each table row is complete, and on its own line."""
    ours, theirs = pty.openpty()
    with open(theirs, "w", buffering=1) as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("COLUMNS", "60")
        termios.tcsetwinsize(theirs, (24, 60))
        play(*make_table(), [log(10), log(20), MLM_LOGS[-1] | {"step": 30}], disable_tqdm=False)
    written = b""
    # A read returns a part, and fails at the end.
    with contextlib.suppress(OSError):
        while part := os.read(ours, 100_000):
            written += part
    os.close(ours)
    printed = written.decode()
    assert re.search(r"30/100 \[", printed), "the bar"
    lines = [line.rpartition("\r")[2] for line in printed.replace("\r\n", "\n").splitlines()]
    rows = [line for line in lines if line.startswith(("train ", "held-out "))]
    assert len(rows) == 3
    assert max(map(len, rows)) <= 60


def test_file_has_no_bar(monkeypatch, capsys):
    """--disable_tqdm is the default if stderr is not a terminal."""
    output = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    play(*make_table(), [log(10)])
    assert output.getvalue().count("\n") == 4
    assert not set("\r\x1b") & set(output.getvalue() + capsys.readouterr().err)


@pytest.mark.parametrize("disable_tqdm", [True, False])
def test_run_prints_one_table_and_no_dictionaries(run_mlm_script, checkpoint, tmp_path, texts, disable_tqdm):
    (tmp_path / "text.txt").write_text("\n\n".join(texts))
    code, printed, errors = run_mlm_script(
        "--model_name_or_path", checkpoint("bert"), "--train_file", tmp_path / "text.txt", "--max_seq_length", 32,
        "--do_train", "--do_eval", "--max_steps", 4, "--logging_steps", 2, "--eval_strategy", "steps",
        "--eval_steps", 2, "--use_cpu", "--output_dir", tmp_path / "out", "--disable_tqdm", disable_tqdm,
    )  # fmt: skip
    assert code == 0, errors
    assert "{" not in printed
    lines = printed.splitlines()
    header = [number for number, line in enumerate(lines) if line.split()[:3] == ["step", "epoch", "loss"]]
    assert len(header) == 1
    rows = lines[header[0] + 1 : header[0] + 7]
    assert [row.split()[:2] for row in rows] == [
        ["held-out", "0"], ["train", "1"], ["train", "2"], ["held-out", "2"], ["train", "4"], ["held-out", "4"],
    ]  # fmt: skip
    assert lines[header[0] + 7] == ""
    end = lines[header[0]].index("loss") + len("loss")
    assert all(re.fullmatch(r" \d+\.\d{3}", row[end - 6 : end]) for row in rows), rows
    assert ("4/4 [" in errors) == (not disable_tqdm)


@pytest.mark.parametrize("printer", [PrinterCallback, ProgressCallback])
def test_live_table_replaces_what_the_trainer_prints(printer):
    handler = CallbackHandler([printer()], None, None, None, None)
    show_live_table(SimpleNamespace(remove_callback=handler.remove_callback, add_callback=handler.add_callback))
    kinds = [type(callback) for callback in handler.callbacks]
    assert kinds == [LiveTable]


def test_a_limit_of_time_reserves_no_room_for_the_huge_last_step():
    step = columns_for(PRETRAINING.objectives, sys.maxsize)[0]
    assert (step.name, step.width) == ("step", len("9,999,999"))
