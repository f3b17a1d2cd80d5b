"""Read the log history of a run, and format it as a table."""

from bisect import bisect_right
from collections.abc import Sequence

from tabulate import tabulate

from cloze.objectives.metrics import format_metric

# Most rows of the table.
ROWS = 10
BEST, RESUMED = "*", ">"


def logs_of(history: Sequence[dict]) -> list[dict]:
    """Return the training logs, the entries with a loss."""
    return [entry for entry in history if "loss" in entry]


def evaluations_of(history: Sequence[dict]) -> list[dict]:
    """Return the evaluations, the entries with an ``eval_loss``.

    The evaluation after training is left out if it repeats an earlier one, because it evaluates the model of the last
    step or, with ``load_best_model_at_end``, the best model.
    """
    evaluations: list[dict] = []
    ended = False
    for entry in history:
        ended |= "train_loss" in entry
        known = [(each["step"], each["eval_loss"]) for each in evaluations] if ended else []
        if "eval_loss" in entry and not any(
            entry["step"] == step or entry["eval_loss"] == loss for step, loss in known
        ):
            evaluations.append(entry)
    return evaluations


def resumed_steps(history: Sequence[dict]) -> list[int]:
    """Return the steps from which the run was resumed."""
    return [entry["step"] for entry in history if "resumed" in entry]


def rows_of(history: Sequence[dict]) -> list[dict]:
    """Return one row per evaluation, with the last training log before it, or one row per log without evaluations."""
    logs, evaluations = logs_of(history), evaluations_of(history)
    if not evaluations:
        return logs
    steps, rows, begin = [entry["step"] for entry in logs], [], 0
    for evaluation in evaluations:
        end = bisect_right(steps, evaluation["step"])
        rows.append((logs[end - 1] if end > begin else {}) | evaluation)
        begin = end
    return rows


def adds_to_live_table(history: Sequence[dict], best_step: int | None) -> bool:
    """Return whether the table adds something to the lines printed during training (training.live_table).

    Only the table marks the best evaluation, has the rows before the run was resumed, and shortens a long run.
    """
    lines_printed = len(logs_of(history)) + len(evaluations_of(history))
    return best_step is not None or bool(resumed_steps(history)) or lines_printed > 2 * ROWS


def _thin(rows: Sequence[dict], best_step: int | None) -> list[dict]:
    """Return at most ROWS evenly spread rows, including the first, the last and the best."""
    if len(rows) <= ROWS:
        return list(rows)
    chosen = [round(number * (len(rows) - 1) / (ROWS - 1)) for number in range(ROWS)]
    for place, row in enumerate(rows):
        if row["step"] == best_step and place not in chosen:
            # Replaces its neighbour, but not the first or last row.
            chosen[min(range(1, ROWS - 1), key=lambda number: abs(chosen[number] - place))] = place
    return [rows[place] for place in chosen]


def table_of(
    history: Sequence[dict], best_step: int | None, figures: dict[str, tuple[str, str]], several_sets: bool = False
) -> list[str]:
    """Format the history of a run as lines of aligned columns; return no lines if nothing was logged.

    Args:
        history: the Trainer's ``log_history``.
        best_step: the Trainer's ``best_global_step``, or None.
        figures: title and format of each evaluation metric, by its name.
        several_sets: leave out the held-out loss, because several held-out sets have many columns.
    """
    columns = {"step": ("step", ","), "epoch": ("epoch", ".2f"), "loss": ("loss", ".3f")}
    if not several_sets:
        columns["eval_loss"] = ("held-out loss", ".3f")
    columns |= {f"eval_{name}": figure for name, figure in figures.items() if not name.endswith("loss")}
    columns |= {"learning_rate": ("learning rate", ".2e"), "tokens_per_second": ("tokens/s", ",.0f")}
    rows = _thin(rows_of(history), best_step)
    if not rows:
        return []
    columns = {name: column for name, column in columns.items() if any(name in row for row in rows)}
    cells = [
        [format_metric(row[name], form) if name in row else "" for name, (_, form) in columns.items()] for row in rows
    ]
    # Titles of several words take two lines. They are rows here, because tabulate pads headers.
    titles = [title.partition(" ") if " " in title else ("", "", title) for title, _ in columns.values()]
    cells = [[title[0] for title in titles], [title[2] for title in titles], *cells]
    table = tabulate(cells, tablefmt="plain", disable_numparse=True, colalign=["right"] * len(columns))
    marks = ["", "", *_marks_of(rows, best_step, resumed_steps(history))]
    used = "".join(marks)
    notes = {
        BEST: "the best evaluation by --metric_for_best_model",
        RESUMED: "the first row after a resume",
    }
    marked = [f"{mark:2}{line}".rstrip() for mark, line in zip(marks, table.splitlines(), strict=True)]
    return marked + [f"{mark} {note}" for mark, note in notes.items() if mark in used]


def _marks_of(rows: Sequence[dict], best_step: int | None, resumed: Sequence[int]) -> list[str]:
    """Return the mark of each row: the best one, and those before which the run was resumed."""
    marks, previous = [], -1
    for row in rows:
        was_resumed = any(previous <= step < row["step"] for step in resumed)
        marks.append(BEST * (row["step"] == best_step) + RESUMED * was_resumed)
        previous = row["step"]
    return marks
