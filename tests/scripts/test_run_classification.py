"""Test run_classification.py end to end."""

import csv
import json
import os
import re
import shutil
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from cloze.config.arguments import ModelArguments
from cloze.config.classification_arguments import ClassifierArguments
from cloze.data.classification import set_classes
from cloze.errors import UserError
from cloze.models.loading import load_config, load_model
from cloze.tasks.classification import CLASSIFICATION
from cloze.training.trainer import PretrainingTrainer
from tests.utils import FAMILIES, SAMPLE, slow_but


@pytest.fixture
def script(run_classification_script):
    return run_classification_script


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def train(script, checkpoint, out):
    """Return a function that fine-tunes a tiny BERT on the sample's subjects and returns its output."""

    def run(*argv, model=None) -> str:
        model = model or ("--model_name_or_path", checkpoint("bert"))
        code, printed, errors = script(
            *model, "--train_file", SAMPLE, "--max_seq_length", 32, "--do_train", "--do_eval", "--max_train_samples",
            64, "--max_eval_samples", 40, "--output_dir", out, *argv,
        )  # fmt: skip
        assert code == 0, errors
        return printed

    return run


def read_json(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("family", slow_but(["bert", "modernbert"], FAMILIES))
def test_run_classification_trains_every_architecture_two_steps(family, checkpoint, train, out):
    train("--max_steps", 2, model=("--model_name_or_path", checkpoint(family)))
    config = AutoModelForSequenceClassification.from_pretrained(out).config
    assert config.id2label == {0: "astronomy", 1: "cooking", 2: "music", 3: "oceans"}
    results = read_json(out / "eval_results.json")
    assert results["eval_samples"] == results["eval_texts"] == 40
    assert 0 < results["eval_loss"] < 3


def test_classification_learns_and_predictions_equal_the_saved_model(train, script, checkpoint, out, tmp_path):
    """The model learns words that name the class; predictions.jsonl has the same probabilities as the model itself."""
    rows = [(f"the {word} of stone and the {word}", word) for word in ("moon", "soup", "song")] * 20
    write_csv(tmp_path / "words.csv", rows)
    settings = "hidden_size=32,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32,initializer_range=0.2"
    new = ("--model_type", "bert", "--config_overrides", settings, "--tokenizer_name", checkpoint("bert"))
    printed = train(
        "--train_file", tmp_path / "words.csv", "--num_train_epochs", 10, "--learning_rate", "5e-3", "--do_predict",
        "--test_file", tmp_path / "words.csv", model=new,
    )  # fmt: skip
    results = read_json(out / "all_results.json")
    assert results["eval_accuracy"] == results["predict_accuracy"] == results["predict_macro_f1"] == 1
    assert "Accuracy" in printed
    assert "100.0% after" in printed
    predictions = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [line["text"] for line in predictions] == [text for text, _ in rows]
    assert [line["prediction"] for line in predictions] == [line["label"] for line in predictions]
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    with torch.no_grad():
        probabilities = model(**tokenizer(rows[0][0], return_tensors="pt")).logits[0].softmax(-1)
    expected = {model.config.id2label[number]: share for number, share in enumerate(probabilities.tolist())}
    assert predictions[0]["probabilities"] == pytest.approx(expected, abs=1e-5)
    (best,) = pipeline("text-classification", model=str(out))(rows[1][0])
    assert best["label"] == "soup"
    card = (out / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    # The model is enough for predictions, without further flags.
    code, _, errors = script(
        "--model_name_or_path", out, "--do_predict", "--test_file", tmp_path / "words.csv", "--output_dir",
        tmp_path / "again", "--per_device_eval_batch_size", 1,
    )  # fmt: skip
    assert code == 0, errors
    again = [json.loads(line) for line in (tmp_path / "again" / "predictions.jsonl").read_text().splitlines()]
    for one, other in zip(predictions, again, strict=True):
        assert one.pop("probabilities") == pytest.approx(other.pop("probabilities"), abs=1e-5)
        assert one == other


def write_csv(path, rows, header=("text", "label")):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def test_classification_predicts_unlabelled_texts_and_pairs(train, script, out, tmp_path):
    rows = [(f"question {number}", f"answer {number}", number % 2) for number in range(20)]
    write_csv(tmp_path / "pairs.csv", rows, ("q", "a", "kind"))
    # Rows with a missing text also have a line, without a prediction.
    asked = [(f"id {n}", *row[:2]) for n, row in enumerate([("", "answer", 0), *rows, ("question", " ", 0)])]
    write_csv(tmp_path / "unknown.csv", asked, ("id", "q", "a"))
    columns = ("--text_column", "q", "--text_pair_column", "a", "--label_column", "kind")
    train("--train_file", tmp_path / "pairs.csv", *columns, "--max_steps", 1)
    code, _, errors = script(
        "--model_name_or_path", out, "--do_predict", "--test_file", tmp_path / "unknown.csv", *columns,
        "--output_dir", tmp_path / "predicted",
    )  # fmt: skip
    assert code == 0, errors
    lines = [json.loads(line) for line in (tmp_path / "predicted" / "predictions.jsonl").read_text().splitlines()]
    assert [(line["id"], line["q"], line["a"]) for line in lines] == asked
    assert [(line["row"], line["kind"]) for line in lines] == [(number, None) for number in range(22)]
    assert [line["prediction"] is None for line in lines] == [True] + [False] * 20 + [True]
    assert lines[0]["probabilities"] is None
    assert set(lines[1]["probabilities"]) == {"0", "1"}
    assert not (tmp_path / "predicted" / "predict_results.json").exists()


def test_classification_predicts_fewer_texts_than_it_evaluates(train, out, tmp_path):
    write_csv(tmp_path / "few.csv", [("the moon", "music"), ("\U00012000", "oceans")])
    printed = train("--max_steps", 1, "--do_predict", "--test_file", tmp_path / "few.csv")
    assert len((out / "predictions.jsonl").read_text().splitlines()) == 2
    assert read_json(out / "all_results.json")["predict_texts"] == 2
    assert "warning: --test_file: 33.3% of the tokens are [UNK]: the tokenizer" in printed
    assert re.search(r"Training texts +.*, 0\.\d% unknown\n", printed)


def test_unknown_test_label_is_an_error_before_training(script, checkpoint, out, tmp_path):
    write_csv(tmp_path / "other.csv", [("the moon", "music"), ("the sea", "sailing")])
    code, _, errors = script(
        "--model_name_or_path", checkpoint("bert"), "--train_file", SAMPLE, "--max_seq_length", 32, "--do_train",
        "--max_steps", 1, "--do_predict", "--test_file", tmp_path / "other.csv", "--output_dir", out,
    )  # fmt: skip
    assert code == 2
    assert "other.csv, line 3: unknown label sailing, the model's classes are" in errors
    assert not (out / "model.safetensors").exists()


def test_class_present_in_held_out_texts_only_is_known(script, checkpoint, out, tmp_path):
    """One text has its own class, and is held out here."""
    write_csv(tmp_path / "rare.csv", [(f"text {number}", "abc"[number // 9]) for number in range(19)])
    code, printed, errors = script(
        "--model_name_or_path", checkpoint("bert"), "--train_file", tmp_path / "rare.csv", "--max_seq_length", 32,
        "--do_train", "--do_eval", "--validation_split_percentage", 90, "--max_steps", 1, "--output_dir", out,
    )  # fmt: skip
    assert code == 0, errors
    assert "c " not in printed.split("Training texts: ")[1].splitlines()[0].partition(")")[0]
    assert AutoModelForSequenceClassification.from_pretrained(out).config.num_labels == 3


def test_do_eval_alone_equals_the_evaluation_after_training(train, script, out, tmp_path):
    """The held-out sample does not depend on the number of training texts."""
    train("--max_steps", 1)
    code, _, errors = script(
        "--model_name_or_path", out, "--train_file", SAMPLE, "--max_seq_length", 32, "--do_eval", "--max_eval_samples",
        40, "--output_dir", tmp_path / "alone",
    )  # fmt: skip
    assert code == 0, errors
    one, other = (read_json(path / "eval_results.json") for path in (out, tmp_path / "alone"))
    assert one["eval_loss"] == pytest.approx(other["eval_loss"], abs=1e-6)
    assert one["eval_accuracy"] == other["eval_accuracy"]


def test_held_out_texts_do_not_depend_on_the_seed(train, out):
    def held_out(seed):
        printed = train("--max_steps", 1, "--seed", seed, "--overwrite_output_dir")
        return printed.split("Held-out texts: ")[1].splitlines()[:2], read_json(out / "eval_results.json")["eval_loss"]

    (first, loss), (second, other_loss) = held_out(1), held_out(2)
    assert first == second
    assert loss != other_loss


@pytest.fixture
def classifier(checkpoint, tmp_path):
    """Return a function that saves a checkpoint whose head was trained for these classes."""

    def make(*names) -> str:
        model = AutoModelForSequenceClassification.from_pretrained(checkpoint("bert"), num_labels=len(names))
        model.classifier.weight.data.fill_(0.5)
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: number for number, name in enumerate(names)}
        model.save_pretrained(tmp_path / "classifier")
        AutoTokenizer.from_pretrained(checkpoint("bert")).save_pretrained(tmp_path / "classifier")
        return str(tmp_path / "classifier")

    return make


@pytest.mark.parametrize(
    ("trained", "labels", "is_kept"),
    [
        (("cats", "dogs"), ("spam", "ham"), False),
        (("cats", "dogs"), ("a", "b", "c"), False),
        (("LABEL_0", "LABEL_1"), ("spam", "ham"), False),
        (("cats", "dogs"), ("0", "1"), False),
        (("LABEL_0", "LABEL_1"), ("0", "1"), True),
        (("spam", "ham"), ("spam", "ham"), True),
        # Sorted labels would have "ham" first.
        (("spam", "ham"), ("ham", "spam"), True),
    ],
)
def test_classification_head_is_kept_for_equal_classes_only(trained, labels, is_kept, classifier, caplog):
    model_args = ModelArguments(model_name_or_path=classifier(*trained))
    config = load_config(model_args, CLASSIFICATION)
    set_classes(config, sorted(labels))
    model = load_model(model_args, config, CLASSIFICATION, seed=1)
    assert bool((model.classifier.weight == 0.5).all()) == is_kept
    assert ("new weights, not loaded from" in caplog.text) != is_kept
    assert is_kept or "must be trained: classifier.bias, classifier.weight" in caplog.text
    assert config.id2label == (dict(enumerate(trained)) if is_kept else dict(enumerate(sorted(labels))))
    # Initialized by the library.
    assert is_kept or 0 < model.classifier.weight.std() < 0.05
    before = AutoModelForSequenceClassification.from_pretrained(model_args.model_name_or_path).bert.state_dict()
    assert all(torch.equal(weights, before[name]) for name, weights in model.bert.state_dict().items())


def test_classifier_pooling_sets_what_modernbert_reads():
    model_args = ClassifierArguments(model_type="modernbert", classifier_pooling="mean")
    assert load_config(model_args, CLASSIFICATION).classifier_pooling == "mean"
    assert load_config(ClassifierArguments(model_type="modernbert"), CLASSIFICATION).classifier_pooling == "cls"


def test_classifier_pooling_of_other_models_is_an_error():
    with pytest.raises(UserError, match="--classifier_pooling mean: the classifier of bert has no choice of pooling"):
        load_config(ClassifierArguments(model_type="bert", classifier_pooling="mean"), CLASSIFICATION)


def test_training_with_a_new_head_resumes_exactly(train, classifier, out, tmp_path):
    write_csv(tmp_path / "two.csv", [("the moon", "up"), ("the sea", "down")] * 10)
    model = ("--model_name_or_path", classifier("cats", "dogs"), "--train_file", tmp_path / "two.csv")
    settings = ("--max_steps", 3, "--save_steps", 2)
    assert "new weights, not loaded from" in train(*settings, *model[2:], model=model[:2])
    whole = load_file(out / "model.safetensors")
    shutil.rmtree(out / "checkpoint-3")
    assert "Resuming from" in train(*settings, *model[2:], model=model[:2])
    assert all(torch.equal(weights, whole[name]) for name, weights in load_file(out / "model.safetensors").items())


# Comparison


def compared(out):
    """Return comparison.json without times."""
    comparison = read_json(out / "comparison.json")
    for model in comparison["models"]:
        del model["seconds"]
    return comparison


def test_comparison_of_a_model_with_itself_finds_no_difference(train, script, checkpoint, out):
    printed = train(
        "--num_train_epochs", 1, "--learning_rate", "1e-2", "--num_seeds", 2,
        model=("--compare_with", f"one={checkpoint('bert')}", f"same={checkpoint('bert')}"),
    )  # fmt: skip
    comparison = read_json(out / "comparison.json")
    one, same = comparison["models"]
    assert comparison["test_examples"] == 40
    assert comparison["seeds"] == [42, 43]
    assert same["difference"] == {"accuracy": 0.0, "interval": [0.0, 0.0], "p_value": 1.0, "exceeds_noise": False}
    assert one["accuracy"] == same["accuracy"]
    assert one["macro_f1"] == same["macro_f1"]
    assert "+0.0 (+0.0 to +0.0), p 1: no difference beyond noise" in printed
    assert "Run 4 of 4: same-seed-43" in printed
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    # The two seeds give two runs on the same texts.
    runs = [out / "one" / f"seed-{seed}" for seed in (42, 43)]
    losses = [read_json(run / "eval_results.json")["eval_loss"] for run in runs]
    assert losses[0] != losses[1]
    outcomes = [read_json(run / "outcome.json") for run in runs]
    assert outcomes[0]["labels"] == outcomes[1]["labels"]
    assert outcomes[0]["digests"] == outcomes[1]["digests"]
    assert len(set(outcomes[0]["digests"])) == 2
    assert np.mean(np.array(outcomes[0]["labels"]) == outcomes[0]["predictions"]) == one["accuracy"]["by_seed"][0]
    # Models are kept, checkpoints are deleted.
    assert (runs[0] / "model.safetensors").exists()
    assert not list(out.glob("*/*/checkpoint-*"))

    # An outcome with other digests, as if a text had changed since.
    changed = outcomes[1] | {"digests": [outcomes[1]["digests"][0], "of another text"]}
    (runs[1] / "outcome.json").write_text(json.dumps(changed))
    code, _, errors = script(out / "recipe.yaml")
    assert code == 2
    assert "the texts have changed since some runs of this comparison" in errors

    # Changed settings are an error.
    code, _, errors = script(out / "recipe.yaml", "--learning_rate", "1e-3")
    assert code == 2
    assert "seed-42 was created with different settings (now learning_rate" in errors
    code, _, errors = script(out / "recipe.yaml", "--max_eval_samples", 30)
    assert code == 2
    assert "different settings (now max_eval_samples 30 (not 40))" in errors
    code, _, errors = script(out / "recipe.yaml", "--per_device_train_batch_size", 4)
    assert code == 2
    assert "different settings (now per_device_train_batch_size 4 (not 8))" in errors


def test_finished_comparison_with_changed_texts_is_an_error(train, script, checkpoint, out, tmp_path):
    table = tmp_path / "table.csv"
    models = ("--compare_with", f"one={checkpoint('bert')}", f"same={checkpoint('bert')}")
    write_csv(table, [("the moon", "up"), ("the sea", "down")] * 10)
    train("--train_file", table, "--max_steps", 1, "--num_seeds", 1, model=models)
    code, printed, _ = script(out / "recipe.yaml")
    assert code == 0
    assert printed.count("Already complete: accuracy") == 2
    write_csv(table, [("the moon", "up"), ("the lake", "down")] * 10)
    code, _, errors = script(out / "recipe.yaml")
    assert code == 2
    assert "the texts have changed since some runs of this comparison" in errors


class Killed(BaseException):
    """Simulate kill -9: no handler of the scripts catches it."""


def test_killed_comparison_resumes_exactly(train, checkpoint, out, tmp_path, monkeypatch):
    """The kill is in the second of three runs, after its first checkpoint."""
    models = (
        "--compare_with",
        f"a={checkpoint('bert')}",
        f"b={checkpoint('distilbert')}",
        f"c={checkpoint('roberta')}",
    )
    settings = ("--max_steps", 5, "--save_steps", 2, "--learning_rate", "1e-2", "--num_seeds", 1)
    train(*settings, "--output_dir", tmp_path / "whole", model=models)
    step, taken = PretrainingTrainer.training_step, []

    def dying_step(*args, **kwargs):
        taken.append(1)
        if len(taken) == 9:
            raise Killed
        return step(*args, **kwargs)

    monkeypatch.setattr(PretrainingTrainer, "training_step", dying_step)
    with pytest.raises(Killed):
        train(*settings, model=models)
    assert not (out / "comparison.json").exists()
    printed = train(*settings, model=models)
    # Nine steps before the kill (one of them is lost), then three to complete the second run and five for the third.
    assert len(taken) == 9 + 3 + 5
    assert printed.count("Already complete: accuracy") == 1
    assert "Resuming from" in printed
    assert compared(out)["models"] == compared(tmp_path / "whole")["models"]


def test_comparison_ignores_outcomes_of_an_earlier_one(train, checkpoint, out, monkeypatch):
    """After a kill in the first run of a new comparison, the second run is repeated too."""
    models = ("--compare_with", f"a={checkpoint('bert')}", f"b={checkpoint('distilbert')}")
    settings = ("--max_steps", 1, "--num_seeds", 1)
    train(*settings, model=models)
    assert len(list(out.glob("*/*/outcome.json"))) == 2
    with monkeypatch.context() as patch:
        patch.setattr(PretrainingTrainer, "training_step", lambda *args, **kwargs: throw(Killed()))
        with pytest.raises(Killed):
            train(*settings, "--overwrite_output_dir", model=models)
    assert not list(out.glob("*/*/outcome.json"))
    assert "Already complete" not in train(*settings, "--overwrite_output_dir", model=models)


def test_comparison_repeats_a_killed_run_without_checkpoints(train, checkpoint, out, monkeypatch):
    """The kill is in the evaluation after the model was saved; a model with other settings is not overwritten."""
    models = ("--compare_with", f"a={checkpoint('bert')}", f"b={checkpoint('distilbert')}")
    settings = ("--max_steps", 1, "--num_seeds", 1, "--save_strategy", "no")
    with monkeypatch.context() as patch:
        patch.setattr("cloze.training.run.evaluate", lambda trainer: throw(Killed()))
        with pytest.raises(Killed):
            train(*settings, model=models)
    assert (out / "a" / "seed-42" / "model.safetensors").exists()
    with pytest.raises(AssertionError, match="a/seed-42 already contains a model"):
        train(*settings, "--learning_rate", "1e-3", model=models)
    train(*settings, model=models)
    assert len(compared(out)["models"]) == 2


@pytest.mark.parametrize("saving", ["steps", "no"])
def test_comparison_stopped_by_a_signal_resumes(saving, train, checkpoint, out, monkeypatch):
    """The signal is in the last evaluation of the first run, which is repeated if there is no checkpoint."""
    models = ("--compare_with", f"a={checkpoint('bert')}", f"b={checkpoint('distilbert')}")
    settings = ("--max_steps", 1, "--num_seeds", 1, "--save_strategy", saving)
    predict, taken = PretrainingTrainer.prediction_step, []

    def signalled(trainer, *args, **kwargs):
        if not trainer.is_in_train and not taken:
            taken.append(trainer.args.output_dir)
            os.kill(os.getpid(), signal.SIGTERM)
        return predict(trainer, *args, **kwargs)

    monkeypatch.setattr(PretrainingTrainer, "prediction_step", signalled)
    with pytest.raises(AssertionError, match="assert 75 == 0"):
        train(*settings, model=models)
    assert taken == [str(out / "a" / "seed-42")]
    assert not list(out.glob("*/*/outcome.json"))
    assert ("Training is already complete" in train(*settings, model=models)) == (saving == "steps")
    assert len(compared(out)["models"]) == 2


@pytest.mark.parametrize("task", ["--do_eval", "--do_predict"])
def test_signal_stops_evaluation_or_prediction_at_its_next_batch(task, script, train, out, tmp_path, monkeypatch):
    """Earlier predictions stay complete."""
    train("--max_steps", 1)
    (tmp_path / "texts.csv").write_text("text,label\n" + "the moon,astronomy\n" * 6)
    text = ("--validation_file", SAMPLE) if task == "--do_eval" else ("--test_file", tmp_path / "texts.csv")
    argv = ("--model_name_or_path", out, *text, task, "--output_dir", tmp_path / "told")
    argv = (*argv, "--per_device_eval_batch_size", 2)
    predict, batches = PretrainingTrainer.prediction_step, []

    def signalled(*args, **kwargs):
        batches.append(1)
        if len(batches) == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        return predict(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(PretrainingTrainer, "prediction_step", signalled)
        code, printed, errors = script(*argv)
    assert (code, errors, len(batches)) == (75, "", 2)
    assert "Evaluation stopped by a signal: run the same command again to repeat it" in printed
    assert not list((tmp_path / "told").glob("*predict*"))
    assert script(*argv)[0] == 0


def throw(error):
    raise error


def test_comparison_dry_run_leaves_no_files(train, checkpoint, out):
    models = ("--compare_with", f"a={checkpoint('bert')}", f"b={checkpoint('distilbert')}")
    assert train("--dry_run", model=models).count("Dry run: nothing was trained") == 2
    assert not out.exists()


@pytest.mark.slow
def test_pretraining_on_the_text_improves_accuracy_beyond_noise(script, run_mlm_script, tmp_path):
    """Words of two classes occur together in plain text. The test has words that no labelled text has, which random
    weights can only guess."""
    rng = np.random.default_rng(0)
    words = rng.choice([*"abcdefghijklmnopqrstuvwxyz"], size=(2, 30, 5))
    words = [["".join(word) for word in of_class] for of_class in words]

    def text(number, first, last):
        return " ".join(rng.choice(words[number % 2][first:last], 8)), "AB"[number % 2]

    (tmp_path / "plain.txt").write_text("\n".join(text(number, 0, 30)[0] for number in range(1500)))
    write_csv(tmp_path / "train.csv", [text(number, 0, 5) for number in range(40)])
    write_csv(tmp_path / "test.csv", [text(number, 5, 30) for number in range(60)])
    mlm = tmp_path / "mlm"
    code, _, errors = run_mlm_script(
        "--model_type", "bert", "--config_overrides", "hidden_size=32,num_hidden_layers=1,num_attention_heads=2,"
        "intermediate_size=64,max_position_embeddings=16", "--vocab_size", 400, "--train_file", tmp_path / "plain.txt",
        "--line_by_line", "--max_seq_length", 16, "--do_train", "--max_steps", 250, "--learning_rate", "1e-2",
        "--per_device_train_batch_size", 32, "--output_dir", mlm,
    )  # fmt: skip
    assert code == 0, errors
    code, printed, errors = script(
        "--config_name", mlm, "--tokenizer_name", mlm, "--compare_with", f"pretrained={mlm}", "--train_file",
        tmp_path / "train.csv", "--validation_file", tmp_path / "test.csv", "--do_train", "--do_eval", "--max_steps",
        30, "--learning_rate", "1e-3", "--per_device_train_batch_size", 16, "--num_seeds", 2, "--save_strategy", "no",
        "--output_dir", tmp_path / "compared",
    )  # fmt: skip
    assert code == 0, errors
    scratch, pretrained = read_json(tmp_path / "compared" / "comparison.json")["models"]
    assert scratch["name"] == "scratch"
    assert pretrained["accuracy"]["mean"] > 0.95
    assert scratch["accuracy"]["mean"] < 0.7
    assert pretrained["difference"]["exceeds_noise"]
    assert "exceeds the noise" in printed


@pytest.mark.parametrize(
    ("argv", "culprit"),
    [
        ("--compare_with bert", "--compare_with bert: a comparison needs two models"),
        ("--compare_with bert a/bert", "two models have the same name (bert, bert)"),
        ("--compare_with bert other=nowhere", "--model_name_or_path nowhere: no model"),
        (
            "--model_name_or_path bert --compare_with other=bert --do_predict --test_file x.csv",
            "--do_predict cannot be combined with --compare_with",
        ),
        (
            "--model_type bert --compare_with bert",
            "--compare_with and --model_type exclude each other: give --config_name",
        ),
        ("--compare_with one=bert lr=1", "--compare_with lr=1: give NAME=PATH"),
        (
            "--compare_with one=bert two=bert --output_dir bert",
            "--output_dir bert contains a model, and --compare_with",
        ),
        ("--model_name_or_path bert --text_pair_column text", "--text_pair_column text is the column of the first"),
        (
            "--config_name bert --compare_with bert",
            "--config_name with --compare_with needs a tokenizer: add --tokenizer_name",
        ),
        ("--compare_with one=bert bert --num_seeds 0", "--num_seeds 0 is less than 1"),
        ("--model_name_or_path bert --streaming --max_steps 3", "--streaming is for pretraining"),
        ("--model_name_or_path bert --mixture a=0.8 b=0.2", "--mixture is for pretraining: drop it"),
        ("--model_name_or_path bert --language de", "--language is for splitting into sentences"),
        ("--model_name_or_path bert --metric_for_best_model f1", "f1 is not one of loss, accuracy, macro_f1"),
        ("--model_name_or_path bert --test_file x.csv --do_predict", "--test_file: x.csv not found"),
        ("--model_name_or_path bert --train_file cuneiform.csv", "cuneiform.csv: 100.0% of the tokens are [UNK]"),
        ("--model_name_or_path bert --validation_file cuneiform.csv --train_file table.csv", "cuneiform.csv: 100.0%"),
        ("--model_name_or_path bert --label_column kind --train_file table.csv", "no column kind"),
        ("--model_name_or_path bert --train_file table.csv --validation_file other.csv", "unknown label c, the model"),
    ],
)
def test_classification_user_error_is_one_line(argv, culprit, script, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert").symlink_to(checkpoint("bert"))
    (tmp_path / "a").mkdir()
    (tmp_path / "lr=1").mkdir()
    (tmp_path / "a" / "bert").symlink_to(checkpoint("bert"))
    write_csv("table.csv", [("one", "a"), ("two", "b")] * 5)
    write_csv("other.csv", [("one", "a"), ("two", "c")])
    write_csv("cuneiform.csv", [("\U00012000", "a"), ("\U00012001", "b")] * 5)
    code, _, errors = script(
        "--train_file", SAMPLE, "--do_train", "--do_eval", "--max_seq_length", 32, "--output_dir", "out", *argv.split()
    )
    assert code == 2
    assert culprit in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "out" / "model.safetensors").exists()
