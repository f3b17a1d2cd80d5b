"""Evaluate on several held-out sets: the figures of each alone, in logs, reports and for the best model."""

import json

import pytest

from cloze.reporting.history import evaluations_of
from tests.utils import SAMPLE, slow_but

SETS = (f"music={SAMPLE / 'music.txt'}", f"oceans={SAMPLE / 'oceans.txt'}")
FIGURES = ("loss", "perplexity", "accuracy", "masked_tokens")


def results(out) -> dict[str, float]:
    return json.loads((out / "eval_results.json").read_text())


@pytest.fixture
def evaluate(run_mlm_script, checkpoint, tmp_path):
    """``evaluate(name, *argv)`` runs run_mlm.py into a folder of this name, and returns the folder and the output."""

    def run(name, *argv):
        out = tmp_path / name
        model = () if "--model_name_or_path" in argv else ("--model_name_or_path", checkpoint("bert"))
        code, printed, errors = run_mlm_script(*model, "--max_seq_length", 32, "--do_eval", "--output_dir", out, *argv)
        assert code == 0, errors
        return out, printed

    return run


def test_each_set_has_the_figures_that_it_has_alone(evaluate):
    together = results(evaluate("both", "--validation_file", *SETS, "--max_eval_samples", 100)[0])
    for number, given in enumerate(SETS):
        name, path = given.split("=")
        alone = results(evaluate(name, "--validation_file", path, "--max_eval_samples", 100)[0])
        for figure in FIGURES:
            assert together[f"eval_{name}_{figure}"] == pytest.approx(alone[f"eval_{figure}"], rel=1e-6)
            assert (together[f"eval_{figure}"] == together[f"eval_{name}_{figure}"]) == (number == 0)
    assert together["perplexity"] == together["eval_music_perplexity"]
    assert together["eval_samples"] == 200


def test_best_model_is_chosen_by_the_named_set(evaluate):
    """The first set improves while the other gets worse, because the run learns the first one's text by heart."""
    argv = (
        "--train_file", SAMPLE / "music.txt", "--validation_file", *SETS, "--do_train", "--max_steps", 6,
        "--max_train_samples", 16, "--max_eval_samples", 16, "--learning_rate", 3e-3, "--eval_strategy", "steps",
        "--eval_steps", 1, "--save_steps", 1, "--load_best_model_at_end",
    )  # fmt: skip
    best = {}
    for metric in ("loss", "eval_music_loss", "oceans_accuracy"):
        out, _ = evaluate(metric, *argv, "--metric_for_best_model", metric)
        state = json.loads((out / "trainer_state.json").read_text())
        key = f"eval_{metric.removeprefix('eval_')}"
        # Step 0 has no checkpoint.
        rows = [entry for entry in evaluations_of(state["log_history"]) if entry["step"]]
        choose = min if key.endswith("loss") else max
        best[metric] = choose(rows, key=lambda entry: entry[key])["step"]
        assert state["best_global_step"] == best[metric]
        assert results(out)[key] == pytest.approx(choose(entry[key] for entry in rows))
    assert best["loss"] == best["eval_music_loss"]


def test_reports_have_each_set(evaluate):
    argv = ("--train_file", SAMPLE / "music.txt", "--do_train", "--max_steps", 2, "--max_eval_samples", 20)
    out, printed = evaluate("out", *argv, "--validation_file", *SETS)
    figures = results(out)
    lines = [line.split()[:2] for line in printed.splitlines()]
    assert [line for line in lines if line[:1] in (["music"], ["oceans"])] == [
        ["music", "0"], ["oceans", "0"], ["music", "2"], ["oceans", "2"],
    ]  # fmt: skip
    card = (out / "README.md").read_text()
    for name in ("music", "oceans"):
        after = f"{figures[f'eval_{name}_perplexity']:,.2f} after"
        assert f"Held-out text, {name}" in printed
        for text, title in ((printed, f"Masked perplexity, {name}  "), (card, f"| masked perplexity, {name} |")):
            (line,) = (line for line in text.splitlines() if title in line)
            assert after in line
    assert "name: masked accuracy, oceans" in card


@pytest.mark.parametrize("script", slow_but(["pretraining"], ["nsp", "pretraining"]))
def test_pair_scripts_evaluate_each_set(script, request, pair_checkpoint, tmp_path):
    code, _, errors = request.getfixturevalue(f"run_{script}_script")(
        "--model_name_or_path", pair_checkpoint("bert"), "--validation_file", *SETS, "--max_seq_length", 48,
        "--sentence_per_line", "--max_eval_samples", 20, "--do_eval", "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, errors
    figures = results(tmp_path / "out")
    pairs = "eval_{}_nsp_pairs" if script == "pretraining" else "eval_{}_pairs"
    assert [figures[pairs.format(name)] for name in ("music", "oceans")] == [20, 20]
    assert figures["eval_loss"] == figures["eval_music_loss"] != figures["eval_oceans_loss"]


def test_classifier_is_evaluated_on_each_set(run_classification_script, checkpoint, tmp_path):
    for name in ("easy", "hard"):
        rows = f"the moon of {name},a\nthe song of {name},b\n" * 3
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{rows}")
    code, printed, errors = run_classification_script(
        "--model_name_or_path", checkpoint("bert"), "--train_file", tmp_path / "easy.csv", "--validation_file",
        f"easy={tmp_path / 'easy.csv'}", f"hard={tmp_path / 'hard.csv'}", "--max_seq_length", 16, "--max_steps", 2,
        "--do_train", "--do_eval", "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, errors
    assert [results(tmp_path / "out")[f"eval_{name}_texts"] for name in ("easy", "hard")] == [6, 6]
    assert "Held-out texts, hard: 6 texts" in printed


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--validation_file", "law=a.txt", "b.txt"], "--validation_file b.txt has no name, but other files do"),
        (["--validation_file", "law=missing.txt"], "--validation_file: missing.txt not found"),
        (["--validation_file", *SETS, "--do_train", "--train_file", SAMPLE, "--metric_for_best_model", "law_loss"],
         "--metric_for_best_model law_loss is not one of loss, accuracy, music_loss, music_accuracy, oceans_loss"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line(argv, error, run_mlm_script, checkpoint, tmp_path):
    code, _, errors = run_mlm_script(
        "--model_name_or_path", checkpoint("bert"), "--do_eval", "--output_dir", tmp_path / "out", *argv
    )
    assert code == 2
    assert errors.startswith(f"error: {error}")
    assert errors.count("\n") == 1


def test_name_of_an_objective_is_no_name_of_a_set(run_pretraining_script, pair_checkpoint, tmp_path):
    code, _, errors = run_pretraining_script(
        "--model_name_or_path", pair_checkpoint("bert"), "--validation_file", f"mlm={SAMPLE}", f"b={SAMPLE}",
        "--do_eval", "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert (code, errors) == (2, "error: mlm is the name of a metric, not of a text: give mlm-text=PATH\n")


def test_several_sets_cannot_be_compared(run_classification_script, checkpoint, tmp_path):
    model = checkpoint("bert")
    code, _, errors = run_classification_script(
        "--compare_with", f"a={model}", f"b={model}", "--train_file", SAMPLE, "--validation_file", *SETS,
        "--do_train", "--do_eval", "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert (code, errors.startswith("error: --compare_with compares models on one held-out set")) == (2, True)
