"""Show a run while it trains: a progress bar, and an aligned line for each log and each evaluation."""

import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback

from cloze.objectives.metrics import BITS, Objective, figures_of, format_metric, prefix_of
from cloze.training.trainer import PretrainingTrainer

# First column of a training log, and of an evaluation.
TRAIN, HELD_OUT = "train", "held-out"
# Columns whose values are the same for each held-out set.
COMMON = ("step", "epoch")
# Characters of the widest usual value, by format.
WIDTHS = {",.2f": 9, ".3f": 6, ".1%": 6, ",.0f": 9, ".2f": 6}
SEPARATOR = "  "
# Characters of the widest usual step.
MAX_STEP_WIDTH = len("9,999,999")


class Column(NamedTuple):
    """Hold a column: its name in the log, its title, and the format and width in characters of its values."""

    name: str
    title: str
    form: str
    width: int

    @property
    def titles(self) -> tuple[str, str]:
        """Return the title in two lines, the first word above the others."""
        first, _, rest = self.title.partition(" ")
        return (first, rest) if rest else ("", first)


def columns_for(
    objectives: dict[str, Objective],
    max_steps: int,
    *,
    with_epoch: bool = True,
    label_width: int = len(HELD_OUT),
    max_width: int | None = None,
) -> list[Column]:
    """Return the columns of a task's table, for all of its lines.

    Args:
        objectives: of the task, by the prefix of their metrics.
        max_steps: the step of the last line; with a limit of time a huge number, whose width is not reserved.
        with_epoch: whether the length of an epoch is known.
        label_width: characters of the longest label of a line.
        max_width: most characters in a line; the least important columns are dropped to fit.
    """
    shown = {"step": ("step", ","), "epoch": ("epoch", ".2f"), "loss": ("loss", ".3f")}
    # The table at the end has bits per character and per byte, too.
    hidden = ("loss", *BITS)
    figures = {name: figure for name, figure in figures_of(objectives).items() if not name.endswith(hidden)}
    shown |= figures | {"tokens_per_second": ("tokens/s", ",.0f"), "eta": ("ETA", "")}
    if not with_epoch:
        del shown["epoch"]
    widths = WIDTHS | {",": min(len(f"{max_steps:,}"), MAX_STEP_WIDTH), "": len("00:00:00")}
    columns = [Column(name, title, form, widths[form]) for name, (title, form) in shown.items()]
    columns = [column._replace(width=max(column.width, *map(len, column.titles))) for column in columns]
    for name in ["epoch", *reversed(figures), "tokens_per_second", "eta"]:
        if max_width is None or label_width + _width_of(columns) <= max_width:
            break
        columns = [column for column in columns if column.name != name]
    return columns


def _width_of(columns: Sequence[Column]) -> int:
    return sum(len(SEPARATOR) + column.width for column in columns)


def label_width_of(names: Sequence[str]) -> int:
    """Return the characters of the longest label of a line, given the names of the held-out sets."""
    return max(len(name or HELD_OUT) for name in [TRAIN, *names])


def format_header(columns: Sequence[Column], names: Sequence[str] = ("",)) -> list[str]:
    """Return the titles in two lines, or in one line if all of them are single words."""
    rows = zip(*(column.titles for column in columns), strict=True)
    return [_format_row("", titles, columns, label_width_of(names)) for titles in rows if any(titles)]


def format_log(logs: dict[str, float], columns: Sequence[Column], names: Sequence[str] = ("",)) -> list[str]:
    """Return the line of a training log, or of an evaluation one line per held-out set.

    Cells without a value are empty.

    Args:
        logs: as the Trainer logs them, with ``step``; ``eta`` in seconds.
        columns: columns of the table.
        names: names of the held-out sets.
    """
    labels = {TRAIN: ""}
    if "eval_loss" in logs:
        labels = {name or HELD_OUT: f"eval_{prefix_of(name)}" for name in names}
    lines = []
    for label, prefix in labels.items():
        values = [logs.get(column.name if column.name in COMMON else prefix + column.name) for column in columns]
        cells = [_format_cell(value, column.form) for value, column in zip(values, columns, strict=True)]
        lines.append(_format_row(label, cells, columns, label_width_of(names)))
    return lines


def _format_cell(value: float | None, form: str) -> str:
    if value is None:
        return ""
    return format_metric(value, form) if form else format_duration(value)


def _format_row(label: str, cells: Sequence[str], columns: Sequence[Column], label_width: int) -> str:
    aligned = [f"{cell:>{column.width}}" for cell, column in zip(cells, columns, strict=True)]
    return SEPARATOR.join([f"{label:<{label_width}}", *aligned]).rstrip()


def format_duration(seconds: float) -> str:
    """Return a duration as m:ss or h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class LiveTable(ProgressCallback):
    """Print a line for each log and each evaluation of a run, below one header.

    The first process prints to stdout. Progress bars are on stderr; ``disable_tqdm`` turns them off.
    """

    # transformers declares None.
    training_bar: Any

    def __init__(self, trainer: PretrainingTrainer):
        super().__init__()
        self.trainer, self.started, self.first_step = trainer, 0.0, None
        self.columns: list[Column] = []

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the bar of the first process, at the step of the checkpoint if the run is resumed."""
        self.current_step = state.global_step
        if state.is_world_process_zero:
            steps = {"total": state.max_steps, "initial": state.global_step}
            self.training_bar = tqdm(**steps, dynamic_ncols=True, disable=args.disable_tqdm)

    def on_step_end(self, args, state, control, **kwargs):
        """Advance the bar; start the clock of the time left."""
        super().on_step_end(args, state, control, **kwargs)
        if self.first_step is None:
            # The first step takes longer than others.
            self.started, self.first_step = time.monotonic(), state.global_step

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        """Advance the bar of an evaluation."""
        if not args.disable_tqdm:
            super().on_prediction_step(args, state, control, eval_dataloader=eval_dataloader, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Print the line of a log or an evaluation of a run that trains."""
        # An evaluation without training is in the summary alone.
        if self.training_bar is None or not {"loss", "eval_loss"} & logs.keys() or _is_repeated(state.log_history):
            return
        lines, names = [], self.trainer.held_out_names
        if not self.columns:
            with_epoch = self.trainer.stream.steps_in_epoch is not None
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
            label_width = label_width_of(names)
            self.columns = columns_for(
                self.trainer.objectives,
                state.max_steps,
                with_epoch=with_epoch,
                label_width=label_width,
                max_width=width,
            )
            lines = ["", *format_header(self.columns, names)]
        row = {**logs, "step": state.global_step}
        if "loss" in logs:
            row["eta"] = self._seconds_left(state)
        for line in [*lines, *format_log(row, self.columns, names)]:
            # print would break the bars.
            tqdm.write(line)
        sys.stdout.flush()

    def _seconds_left(self, state) -> float | None:
        """Return the seconds left of --max_train_hours, or of the steps left at the speed since the first step.

        None after the first step, which takes longer than others.
        """
        clock = self.trainer.stop_callback
        if clock.limit is not None:
            return max(clock.limit - clock.seconds, 0)
        assert self.first_step is not None
        steps_done, steps_left = state.global_step - self.first_step, state.max_steps - state.global_step
        return steps_left * (time.monotonic() - self.started) / steps_done if steps_done else None


def _is_repeated(history: Sequence[dict]) -> bool:
    """Return whether the last entry is the evaluation after training, and repeats an earlier one."""
    *earlier, last = history
    if "eval_loss" not in last or not any("train_loss" in entry for entry in earlier):
        return False
    return any(entry.get("eval_loss") == last["eval_loss"] for entry in earlier)


def show_live_table(trainer: PretrainingTrainer) -> None:
    """Let a live table take the place of the dictionaries that the Trainer prints."""
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(LiveTable(trainer))
