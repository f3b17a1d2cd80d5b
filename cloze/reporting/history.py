"""Read what a run logged: its losses and evaluations, where it was resumed, and a table of them."""

from bisect import bisect_right
from collections.abc import Sequence

from tabulate import tabulate

from cloze.objectives.metrics import format_metric

# Rows of the table: as many as are taken in at a glance.
ROWS = 10
BEST, RESUMED = "*", ">"


def logs_of(history: Sequence[dict]) -> list[dict]:
    """Return the entries of training."""
    return [entry for entry in history if "loss" in entry]


def evaluations_of(history: Sequence[dict]) -> list[dict]:
    """Return the entries of evaluations.

    The one after training is left out if it repeats an earlier one: of the last step, or of the best model, loaded at
    the end (``load_best_model_at_end``).
    """
    evaluations, ended = [], False
    for entry in history:
        ended |= "train_loss" in entry
        known = [(each["step"], each["eval_loss"]) for each in evaluations] if ended else []
        if "eval_loss" in entry and not any(
            entry["step"] == step or entry["eval_loss"] == loss for step, loss in known
        ):
            evaluations.append(entry)
    return evaluations


def resumed_steps(history: Sequence[dict]) -> list[int]:
    """Return the steps of the checkpoints that were resumed from."""
    return [entry["step"] for entry in history if "resumed" in entry]


def rows_of(history: Sequence[dict]) -> list[dict]:
    """Return a row an evaluation, with the last log of training before it; without evaluations, a row a log."""
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
    """Return whether the table shows more than the lines printed while training (training.live_table).

    It marks the best evaluation, has the rows before a run was resumed, and shortens a long run.
    """
    lines_printed = len(logs_of(history)) + len(evaluations_of(history))
    return best_step is not None or bool(resumed_steps(history)) or lines_printed > 2 * ROWS


def _thin(rows: Sequence[dict], best_step: int | None) -> list[dict]:
    """Return at most ROWS rows, evenly spread: the first, the last and the best among them."""
    if len(rows) <= ROWS:
        return list(rows)
    chosen = [round(number * (len(rows) - 1) / (ROWS - 1)) for number in range(ROWS)]
    for place, row in enumerate(rows):
        if row["step"] == best_step and place not in chosen:
            # In place of its neighbour; neither the first nor the last, as the best is not at either end.
            chosen[min(range(1, ROWS - 1), key=lambda number: abs(chosen[number] - place))] = place
    return [rows[place] for place in chosen]


def table_of(history: Sequence[dict], best_step: int | None, figures: dict[str, tuple[str, str]]) -> list[str]:
    """Format how a run went as lines of aligned columns; none if nothing was logged.

    Args:
        history: the Trainer's ``log_history``.
        figures: titles and formats of the metrics evaluated, by their names.
    """
    columns = {"step": ("step", ","), "epoch": ("epoch", ".2f"), "loss": ("loss", ".3f")}
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
    # Titles of several words take two lines; as rows, as tabulate pads headers.
    titles = [title.partition(" ") if " " in title else ("", "", title) for title, _ in columns.values()]
    cells = [[title[0] for title in titles], [title[2] for title in titles], *cells]
    table = tabulate(cells, tablefmt="plain", disable_numparse=True, colalign=["right"] * len(columns))
    marks = ["", "", *_marks_of(rows, best_step, resumed_steps(history))]
    used = "".join(marks)
    notes = {
        BEST: "the best, by --metric_for_best_model",
        RESUMED: "the first after the run was broken off and gone on with",
    }
    marked = [f"{mark:2}{line}".rstrip() for mark, line in zip(marks, table.splitlines(), strict=True)]
    return marked + [f"{mark} {note}" for mark, note in notes.items() if mark in used]


def _marks_of(rows: Sequence[dict], best_step: int | None, resumed: Sequence[int]) -> list[str]:
    """Return each row's mark: whether it is the best, and whether the run was resumed since the row before."""
    marks, previous = [], -1
    for row in rows:
        was_resumed = any(previous <= step < row["step"] for step in resumed)
        marks.append(BEST * (row["step"] == best_step) + RESUMED * was_resumed)
        previous = row["step"]
    return marks
