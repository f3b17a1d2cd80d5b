"""Test that the figures show the logged values, by reading the data of their axes."""

import json
import math

import matplotlib
import numpy as np
import pytest

from cloze.objectives.metrics import figures_of
from cloze.reporting.plots import POINTS, comparison_of, curves_of, save
from cloze.tasks.masked_lm import MASKED_LM
from cloze.tasks.next_sentence import NEXT_SENTENCE
from cloze.tasks.pretraining import PRETRAINING

MASKED, PAIRS, BOTH = (figures_of(task.objectives) for task in (MASKED_LM, NEXT_SENTENCE, PRETRAINING))


def log(step, loss, accuracy):
    meters = {"learning_rate": step * 1e-5, "tokens_per_second": 1e4 + step}
    return {"step": step, "loss": loss, "accuracy": accuracy, **meters}


def evaluation(step, loss, accuracy):
    return {"step": step, "eval_loss": loss, "eval_accuracy": accuracy, "eval_perplexity": math.exp(loss)}


HISTORY = [
    evaluation(0, 6.0, 0.01),
    log(1, 5.5, 0.02),
    log(4, 5.25, 0.03),
    evaluation(4, 5.0, 0.05),
    {"step": 4, "epoch": 0.5, "resumed": True},
    log(8, 4.75, 0.06),
    evaluation(8, 4.5, 0.08),
    log(12, 4.25, 0.09),
    evaluation(12, 4.625, 0.07),
    {"step": 12, "train_loss": 5.0},
    evaluation(12, 4.625, 0.07),
]


def panels(figure) -> dict[str, dict[str, list]]:
    """Return the points of each line, by the title of its panel and its label."""
    return {
        axes.get_title(loc="left"): {line.get_label(): np.array(line.get_data()).T.tolist() for line in axes.lines}
        for axes in figure.axes
    }


def test_bits_per_character_are_the_loss_times_a_constant_and_not_drawn():
    history = [{"step": step, "eval_loss": 5.0 - step, "eval_bits_per_character": 3.0} for step in (0, 1)]
    assert list(panels(curves_of(history, None, MASKED))) == ["Masked loss"]


def test_each_held_out_set_has_a_line():
    history = [log(1, 5.5, 0.02)]
    for step, first, second in ((0, 6.0, 7.0), (1, 5.0, 7.5)):
        history.append(
            {
                "step": step, "eval_loss": first, "eval_law_loss": first, "eval_general_loss": second,
                "eval_law_accuracy": 0.1, "eval_general_accuracy": 0.2,
            }
        )  # fmt: skip
    found = panels(curves_of(history, None, MASKED, ["law", "general"]))
    assert found["Masked loss"]["law"] == [[0, 6.0], [1, 5.0]]
    assert found["Masked loss"]["general"] == [[0, 7.0], [1, 7.5]]
    assert "held-out" not in found["Masked loss"]
    assert found["Masked accuracy"]["general"] == [[0, 0.2], [1, 0.2]]


def test_curves_equal_the_log():
    found = panels(curves_of(HISTORY, 8, MASKED))
    assert list(found) == ["Masked loss", "Masked accuracy", "Learning rate", "Tokens per second, without padding"]
    assert found["Masked loss"]["training"] == [[1, 5.5], [4, 5.25], [8, 4.75], [12, 4.25]]
    assert found["Masked loss"]["held-out"] == [[0, 6.0], [4, 5.0], [8, 4.5], [12, 4.625]]
    assert found["Masked accuracy"]["training"] == [[1, 0.02], [4, 0.03], [8, 0.06], [12, 0.09]]
    assert found["Masked accuracy"]["held-out"] == [[0, 0.01], [4, 0.05], [8, 0.08], [12, 0.07]]
    np.testing.assert_allclose(found["Learning rate"]["training"], [[1, 1e-5], [4, 4e-5], [8, 8e-5], [12, 12e-5]])
    assert found["Tokens per second, without padding"]["training"] == [[1, 10001], [4, 10004], [8, 10008], [12, 10012]]


def test_curves_mark_best_and_resumed_steps():
    history = [*HISTORY, {"step": 9, "epoch": 1.0, "resumed": True}]
    figure = curves_of(history, 8, MASKED)
    found = panels(figure)
    assert found["Masked loss"]["best"] == [[8, 4.5]]
    assert found["Masked accuracy"]["best"] == [[8, 0.08]]
    assert "best" not in found["Learning rate"]
    for axes in figure.axes:
        marks = [line.get_xdata()[0] for line in axes.lines if line.get_label() == "resumed"]
        assert marks == [4, 9]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["training", "held-out", "best", "resumed"]


def test_curves_without_best_or_resume_mark_nothing():
    history = [entry for entry in HISTORY if "resumed" not in entry]
    (legend,) = curves_of(history, None, MASKED).legends
    assert [text.get_text() for text in legend.get_texts()] == ["training", "held-out"]


def test_curves_of_both_objectives_have_a_panel_each():
    history = [
        {"step": 1, "loss": 7.0, "mlm_loss": 6.25, "nsp_loss": 0.75, "mlm_accuracy": 0.125, "nsp_accuracy": 0.5},
        {"step": 2, "eval_loss": 6.5, "eval_mlm_loss": 6.0, "eval_nsp_loss": 0.5, "eval_nsp_f1": 0.625},
    ]
    found = panels(curves_of(history, None, BOTH))
    assert found == {
        "Loss": {"training": [[1, 7.0]], "held-out": [[2, 6.5]]},
        "Masked loss": {"training": [[1, 6.25]], "held-out": [[2, 6.0]]},
        "Masked accuracy": {"training": [[1, 0.125]]},
        "Pair loss": {"training": [[1, 0.75]], "held-out": [[2, 0.5]]},
        "Pair accuracy": {"training": [[1, 0.5]]},
        "Pair F1": {"held-out": [[2, 0.625]]},
    }


def test_curves_leave_out_nan_and_infinity():
    history = [log(1, math.nan, 0.5), log(2, 3.0, math.inf), log(3, 2.0, 0.25)]
    found = panels(curves_of(history, None, PAIRS))
    assert found["Pair loss"]["training"] == [[2, 3.0], [3, 2.0]]
    assert found["Pair accuracy"]["training"] == [[1, 0.5], [3, 0.25]]


def test_curves_of_a_long_log_are_means_with_range(tmp_path):
    """The band includes a single spike among 100,000 entries."""
    losses = np.linspace(8, 7, 100_000)
    losses[50_000] = 20.0
    figure = curves_of([log(step, loss, 0.5) for step, loss in enumerate(losses, 1)], None, MASKED)
    axes = figure.axes[0]
    (line,) = axes.lines
    steps, means = line.get_data()
    assert len(steps) == POINTS
    np.testing.assert_allclose(means[0], losses[:250].mean())
    np.testing.assert_allclose(steps[0], 125.5)
    (band,) = axes.collections
    assert band.get_datalim(axes.transData).ymax == 20.0
    save(figure, tmp_path / "long.png")


@pytest.mark.parametrize(("lowest", "scale"), [(7.0, "linear"), (1.0, "log")])
def test_curves_of_large_falls_use_a_log_scale(lowest, scale):
    figure = curves_of([log(1, 8.0, 0.1), log(2, lowest, 0.9)], None, MASKED)
    assert [axes.get_yscale() for axes in figure.axes] == [scale, "linear", "linear", "linear"]


@pytest.mark.parametrize("history", [[], HISTORY[1:2], HISTORY[:1], HISTORY, [log(1, 0.0, 0.0)]])
def test_curves_draw_any_history(history, tmp_path):
    save(curves_of(history, None, MASKED), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_curves_neither_use_nor_change_matplotlib_style(tmp_path):
    save(curves_of(HISTORY, 8, MASKED), tmp_path / "before.png")
    with matplotlib.rc_context({"lines.linewidth": 9.0, "font.size": 30.0, "axes.facecolor": "black"}):
        own = dict(matplotlib.rcParams)
        save(curves_of(HISTORY, 8, MASKED), tmp_path / "after.png")
        assert dict(matplotlib.rcParams) == own
    assert (tmp_path / "before.png").read_bytes() == (tmp_path / "after.png").read_bytes()


# Comparisons


def model(name, accuracies, f1s, difference=None):
    scores = {
        metric: {"mean": sum(values) / len(values), "std": 0.0, "by_seed": values}
        for metric, values in (("accuracy", accuracies), ("macro_f1", f1s))
    }
    return {"name": name, "model": f"models/{name}", **scores, "seconds": {}, "difference": difference}


def difference(accuracy, exceeds_noise):
    return {"accuracy": accuracy, "interval": [0.0, 0.1], "p_value": 0.03, "exceeds_noise": exceeds_noise}


COMPARISON = {
    "test_examples": 1000,
    "seeds": [42, 43],
    "models": [
        model("original", [0.875, 0.885], [0.75, 0.77]),
        model("adapted", [0.89, 0.894], [0.8, 0.81], difference(0.012, True)),
        model("other", [0.86, 0.88], [0.7, 0.72], difference(-0.01, False)),
    ],
}


def test_comparison_plot_has_seeds_and_means():
    figure = comparison_of(COMPARISON)
    accuracy, f1 = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Accuracy", "Macro-F1"]
    for axes, metric in ((accuracy, "accuracy"), (f1, "macro_f1")):
        points = [line.get_xydata().tolist() for line in axes.lines]
        expected = []
        for row, each in enumerate(COMPARISON["models"]):
            expected += [[[value, row] for value in each[metric]["by_seed"]], [[each[metric]["mean"], row]]]
        assert points == expected
    labels = [label.get_text() for label in accuracy.get_yticklabels()]
    assert labels == [
        "original",
        "adapted\n+1.2 points vs. the first,\nexceeds the noise",
        "other\n-1.0 points vs. the first,\nwithin the noise",
    ]
    bottom, top = accuracy.get_ylim()
    assert bottom > top, "the first on top"


def test_comparison_plot_reads_comparison_json(tmp_path):
    save(comparison_of(json.loads(json.dumps(COMPARISON))), tmp_path / "comparison.png")
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
