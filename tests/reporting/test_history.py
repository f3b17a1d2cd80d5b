"""Test reading the log history: evaluations without repeats, and a table of the logged values."""

import pytest

from cloze.objectives.metrics import format_metric
from cloze.reporting.history import _thin, adds_to_live_table, evaluations_of, resumed_steps, rows_of, table_of

FIGURES = {"perplexity": ("masked perplexity", ",.2f"), "accuracy": ("masked accuracy", ".1%")}


def log(step, loss, **more):
    return {"step": step, "epoch": step / 8, "loss": loss, "learning_rate": step * 1e-5, **more}


def evaluation(step, loss, accuracy=0.25):
    return {"step": step, "epoch": step / 8, "eval_loss": loss, "eval_accuracy": accuracy, "eval_perplexity": 10.0}


HISTORY = [
    evaluation(0, 7.0, accuracy=0.0),
    log(1, 6.5, tokens_per_second=12345.6),
    log(3, 6.25),
    evaluation(4, 6.0),
    {"step": 4, "epoch": 0.5, "resumed": True},
    evaluation(8, 5.0, accuracy=0.5),
    log(10, 5.75, tokens_per_second=999.4),
    evaluation(12, 5.5),
    {"step": 12, "train_loss": 6.0},
    evaluation(12, 5.5),
]


def test_history_counts_the_last_evaluation_once():
    assert [(entry["step"], entry["eval_loss"]) for entry in evaluations_of(HISTORY)] == [
        (0, 7.0),
        (4, 6.0),
        (8, 5.0),
        (12, 5.5),
    ]


@pytest.mark.parametrize(("loss", "steps"), [(5.0, [0, 4, 8]), (5.25, [0, 4, 8, 12])])
def test_history_keeps_best_model_evaluation_apart_from_the_last_step(loss, steps):
    """The last evaluation repeats step 8 exactly if that model was loaded at the end."""
    history = [entry for entry in HISTORY[:-1] if entry != evaluation(12, 5.5)] + [evaluation(12, loss)]
    assert [entry["step"] for entry in evaluations_of(history)] == steps


def test_history_keeps_equal_losses():
    assert len(evaluations_of([evaluation(4, 5.0), evaluation(8, 5.0)])) == 2


def test_history_row_has_what_was_logged_since_the_row_before():
    rows = rows_of(HISTORY)
    assert [(row["step"], row.get("loss"), row["eval_loss"]) for row in rows] == [
        (0, None, 7.0),
        (4, 6.25, 6.0),
        (8, None, 5.0),
        (12, 5.75, 5.5),
    ]


def test_history_table_has_the_logged_values():
    assert table_of(HISTORY, 8, FIGURES) == [
        "                      held-out      masked    masked  learning",
        "  step  epoch   loss      loss  perplexity  accuracy      rate  tokens/s",
        "     0   0.00            7.000       10.00      0.0%",
        "     4   0.50  6.250     6.000       10.00     25.0%  3.00e-05",
        "*>   8   1.00            5.000       10.00     50.0%",
        "    12   1.50  5.750     5.500       10.00     25.0%  1.00e-04       999",
        "* the best evaluation by --metric_for_best_model",
        "> the first row after a resume",
    ]


def test_history_table_without_evaluations_has_a_row_per_log():
    lines = table_of([log(1, 6.5), log(3, 6.25), {"step": 3, "train_loss": 6.0}], None, FIGURES)
    assert lines == [
        "                      learning",
        "  step  epoch   loss      rate",
        "     1   0.12  6.500  1.00e-05",
        "     3   0.38  6.250  3.00e-05",
    ]


def test_history_of_an_empty_log_has_no_table():
    assert table_of([{"step": 3, "train_loss": 6.0}], None, FIGURES) == []


@pytest.mark.parametrize(
    ("logs", "best", "more", "adds"),
    [(19, None, [], False), (20, None, [], True), (1, 4, [], True), (1, None, [{"step": 0, "resumed": True}], True)],
)
def test_history_table_adds_to_live_table(logs, best, more, adds):
    """The table marks the best evaluation, includes rows before a resume, and shortens a long run."""
    assert adds_to_live_table([*[log(step, 5.0) for step in range(logs)], evaluation(9, 5.0), *more], best) == adds


@pytest.mark.parametrize("best", [None, 0, 1, 500, 1234, 9_998, 9_999])
def test_history_table_of_a_long_run_has_ten_rows_with_the_best(best):
    rows = _thin([evaluation(step, 5.0) for step in range(10_000)], best)
    steps = [row["step"] for row in rows]
    assert len(set(steps)) == 10
    assert steps == sorted(steps)
    assert {0, 9_999} <= set(steps)
    assert best is None or best in steps


def test_history_table_fits_its_width():
    """Both objectives, in a run of millions of steps."""
    figures = FIGURES | {"nsp_accuracy": ("pair accuracy", ".1%"), "nsp_f1": ("pair F1", ".3f")}
    entry = evaluation(9_000_000, 5.0) | {"eval_nsp_accuracy": 1.0, "eval_nsp_f1": 1.0, "eval_perplexity": 30_000.0}
    lines = table_of([log(9_000_000, 5.0, tokens_per_second=1_234_567.8), entry], 9_000_000, figures)
    assert max(map(len, lines)) <= 100


def test_history_lists_all_resumed_steps():
    assert resumed_steps([*HISTORY, {"step": 9, "epoch": 1.1, "resumed": True}]) == [4, 9]


def test_format_metric_shortens_huge_numbers():
    assert format_metric(1234.567, ",.2f") == "1,234.57"
    assert format_metric(1e300, ",.2f") == "1.00e+300"
