"""Draw the curves of a run, and a comparison. pyplot is not used, because it keeps global state."""

from collections.abc import Sequence
from itertools import cycle
from math import ceil, isfinite
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, Formatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from cloze.objectives.metrics import BITS, prefix_of
from cloze.reporting.history import evaluations_of, logs_of, resumed_steps

# Colours for colour-blind readers (Okabe and Ito, 2008); evaluations also have markers.
TRAINING, BEST = "#0072B2", "#000000"
# Of the held-out sets in turn.
EVALUATIONS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLE = {
    "figure.dpi": 120,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#777777",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "legend.frameon": False,
}
# Neither uses nor changes the user's matplotlib settings.
own_style = style.context(["default", STYLE])

PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
PERCENT = FuncFormatter(lambda value, _: f"{100 * value:g} %")

# Most points of a line. Longer series are drawn as means with a band from minimum to maximum.
POINTS = 400
# Losses use a log scale if the maximum is more than this multiple of the minimum.
LOG_RATIO = 4


def _series_of(entries: Sequence[dict], name: str) -> np.ndarray:
    """Return steps and values of a metric, [2, entries], without entries where it is missing or not finite."""
    pairs = [(entry["step"], entry[name]) for entry in entries if isfinite(entry.get(name, np.nan))]
    return np.array(pairs, dtype=float).reshape(-1, 2).T


def _thin(series: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return means of adjacent entries, [2, points], and their minima and maxima, [points]."""
    bins = np.array_split(series, min(POINTS, series.shape[1]), axis=1)
    means = np.array([each.mean(axis=1) for each in bins]).T
    return means, np.array([each[1].min() for each in bins]), np.array([each[1].max() for each in bins])


def _panels_of(figures: dict[str, tuple[str, str]]) -> dict[str, tuple[str, Formatter]]:
    """Return title and tick formatter of each panel, by the metric's name in the log; losses replace perplexities.

    Bits per character and per byte are left out: within a run, they are the loss times a constant.
    """
    panels: dict[str, tuple[str, Formatter]] = {"loss": ("loss", PLAIN)}
    for name, (title, form) in figures.items():
        if name.endswith(BITS):
            continue
        formatter = PERCENT if form.endswith("%") else PLAIN
        panels[name.replace("perplexity", "loss")] = title.replace("perplexity", "loss"), formatter
    panels["learning_rate"] = "learning rate", PLAIN
    panels["tokens_per_second"] = "tokens per second, without padding", EngFormatter(sep=" ")
    return panels


@own_style
def curves_of(
    history: Sequence[dict], best_step: int | None, figures: dict[str, tuple[str, str]], sets: Sequence[str] = ("",)
) -> Figure:
    """Draw the logged losses, metrics, learning rate and throughput over the steps of a run, one panel each.

    Args:
        history: the Trainer's ``log_history``.
        best_step: the Trainer's ``best_global_step``, or None.
        figures: title and format of each evaluation metric, by its name.
        sets: names of the held-out sets, "" for one without a name; each has a line in the panels.
    """
    logs, evaluations, resumed = logs_of(history), evaluations_of(history), resumed_steps(history)
    prefixes = {each or "held-out": f"eval_{prefix_of(each)}" for each in sets}
    drawn = {
        name: (
            _series_of(logs, name),
            {each: _series_of(evaluations, key + name) for each, key in prefixes.items()},
            *panel,
        )
        for name, panel in _panels_of(figures).items()
    }
    drawn = {name: panel for name, panel in drawn.items() if any(line.size for line in (panel[0], *panel[1].values()))}
    num_columns = 2 if len(drawn) <= 4 else 3
    num_rows = max(ceil(len(drawn) / num_columns), 1)
    figure = _grid_figure(num_rows, num_columns)
    last = max((entry["step"] for entry in history), default=0) or 1
    for number, (name, (trained, evaluated, title, formatter)) in enumerate(drawn.items(), 1):
        axes = figure.add_subplot(num_rows, num_columns, number)
        axes.set_title(title[0].upper() + title[1:])
        _draw_line(axes, trained, color=TRAINING, label="training")
        for label, line, color in zip(evaluated, evaluated.values(), cycle(EVALUATIONS), strict=False):
            _draw_line(axes, line, color=color, label=label, marker="o")
            best = line[:, line[0] == best_step][:, -1:]
            if best.size:
                axes.plot(*best, "*", color=BEST, markersize=9, label="best", zorder=5)
        for step in resumed:
            axes.axvline(step, color="#777777", linestyle=":", linewidth=1, label="resumed")
        _set_scales(axes, name, np.concatenate([each[1] for each in (trained, *evaluated.values())]), formatter)
        axes.set_xlim(-0.02 * last, 1.02 * last)
    figure.supxlabel("step", fontsize="medium")
    _add_legend(figure)
    return figure


def _grid_figure(num_rows: int, num_columns: int) -> Figure:
    """Return an empty figure with space for the panels, their tick labels, and a legend above."""
    # In inches. matplotlib's own layout engines take longer than the drawing.
    left, right, bottom, top, between = 0.65, 0.2, 0.55, 0.6, (0.65, 0.55)
    width, height = (9 - left - right - (num_columns - 1) * between[0]) / num_columns, 1.6
    total = bottom + top + num_rows * height + (num_rows - 1) * between[1]
    figure = Figure(figsize=(9, total))
    figure.subplots_adjust(
        left / 9, bottom / total, 1 - right / 9, 1 - top / total, between[0] / width, between[1] / height
    )
    return figure


def _draw_line(axes: Axes, series: np.ndarray, color: str, label: str, marker: str = "") -> None:
    count = series.shape[1]
    if not count:
        return
    means, least, greatest = _thin(series)
    # A single point needs a marker to be visible; many markers hide the line.
    axes.plot(*means, color=color, label=label, marker="o" if count == 1 else marker if count <= 40 else "")
    if count > POINTS:
        axes.fill_between(means[0], least, greatest, color=color, alpha=0.25, linewidth=0)


def _set_scales(axes: Axes, name: str, values: np.ndarray, formatter: Formatter) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    if name.endswith("loss") and values.min() > 0 and values.max() > LOG_RATIO * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axes.yaxis.set_minor_locator(NullLocator())
    elif name in ("learning_rate", "tokens_per_second"):
        axes.set_ylim(0, 1.08 * values.max() or 1)
    axes.yaxis.set_major_formatter(formatter)


def _add_legend(figure: Figure, location: Literal["upper center", "outside upper center"] = "upper center") -> None:
    """Add one legend for all panels, above them."""
    handles: dict[str, Line2D] = {}
    for axes in figure.axes:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(list(handles.values()), list(handles), loc=location, ncols=len(handles))


@own_style
def comparison_of(comparison: dict) -> Figure:
    """Draw one row per classifier: accuracy and macro-F1 of each seed as a dot, and the mean as a bar.

    Args:
        comparison: as ``comparison.bootstrap.summarise`` returns it.
    """
    models = comparison["models"]
    figure = Figure(figsize=(9, 1.2 + 0.6 * len(models)), layout="constrained")
    rows = range(len(models))
    for axes, (name, title) in zip(
        figure.subplots(1, 2, sharey=True), {"accuracy": "Accuracy", "macro_f1": "Macro-F1"}.items(), strict=True
    ):
        axes.set_title(title)
        for row, model in zip(rows, models, strict=True):
            values = model[name]["by_seed"]
            axes.plot(values, [row] * len(values), "o", color=TRAINING, alpha=0.5, markersize=6, label="one seed")
            axes.plot(model[name]["mean"], row, "|", color=BEST, markersize=18, markeredgewidth=2, label="mean")
        axes.set_xlabel(f"on {comparison['test_examples']:,} held-out texts")
        axes.margins(x=0.1)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(PERCENT)
        axes.grid(visible=False, axis="y")
    axes.set_yticks(rows, [_label_of(model) for model in models])
    # Inverted, with the first model at the top.
    axes.set_ylim(len(models) - 0.5, -0.5)
    _add_legend(figure, "outside upper center")
    return figure


def _label_of(model: dict) -> str:
    """Return the label of a row: the model's name, and its difference to the first model."""
    difference = model["difference"]
    if difference is None:
        return model["name"]
    noise = "exceeds the noise" if difference["exceeds_noise"] else "within the noise"
    return f"{model['name']}\n{100 * difference['accuracy']:+.1f} points vs. the first,\n{noise}"


@own_style
def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; raise OSError if the file cannot be written."""
    figure.savefig(path, format="png")
