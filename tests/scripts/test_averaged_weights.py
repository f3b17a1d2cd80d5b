"""Whole runs with --ema_decay: what is evaluated, saved, loaded at the end and resumed."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

AVERAGE = "averaged_weights.safetensors"
DECAY = 0.4


@pytest.fixture
def train(run_mlm_script, checkpoint, texts, tmp_path):
    """``train(out, ...)`` adapts a tiny BERT for 6 steps, evaluates after each second one, and returns the output."""
    (tmp_path / "text.txt").write_text("\n".join(texts[:100]))
    (tmp_path / "held-out.txt").write_text("\n".join(texts[300:330]))

    def run(out, *argv):
        code, printed, errors = run_mlm_script(
            "--model_name_or_path", checkpoint("bert"), "--train_file", tmp_path / "text.txt",
            "--validation_file", tmp_path / "held-out.txt", "--max_seq_length", 64, "--do_train", "--do_eval",
            "--max_steps", 6, "--learning_rate", 0.03, "--save_steps", 1, "--save_total_limit", 20,
            "--eval_strategy", "steps", "--eval_steps", 2, "--logging_steps", 1, "--output_dir", out, *argv,
        )  # fmt: skip
        assert code == 0, errors
        return printed

    return run


@pytest.fixture
def evaluate(run_mlm_script, tmp_path):
    """``evaluate(folder)`` is the loss of a saved model on the held-out text."""

    def run(folder):
        out = tmp_path / f"evaluation-{folder.name}"
        argv = ("--validation_file", tmp_path / "held-out.txt", "--max_seq_length", 64, "--do_eval")
        assert run_mlm_script("--model_name_or_path", folder, *argv, "--output_dir", out)[0] == 0
        return json.loads((out / "eval_results.json").read_text())["eval_loss"]

    return run


def history(out, name) -> dict[int, float]:
    entries = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry[name] for entry in entries if name in entry}


def same(one, other) -> bool:
    """Whether two files have the same tensors, bit for bit, under the names of the second."""
    found, expected = load_file(one), load_file(other)
    return all(torch.equal(found[name], value) for name, value in expected.items())


def with_average(checkpoint, folder):
    """Return a copy of a checkpoint's model with its averaged weights."""
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors") | load_file(folder / AVERAGE)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_average_is_evaluated_and_saved_and_training_is_unchanged(train, evaluate, checkpoint, tmp_path):
    out, plain = tmp_path / "out", tmp_path / "plain"
    train(out, "--ema_decay", DECAY)
    train(plain)
    expected = load_file(f"{checkpoint('bert')}/model.safetensors")
    for step in range(1, 7):
        raw, decay = load_file(out / f"checkpoint-{step}" / "model.safetensors"), min(DECAY, (1 + step) / (10 + step))
        expected = {name: decay * value + (1 - decay) * raw[name] for name, value in expected.items()}
        average = load_file(out / f"checkpoint-{step}" / AVERAGE)
        assert average.keys() == raw.keys()
        assert_close(average, expected, rtol=1e-5, atol=1e-6)
        assert same(out / f"checkpoint-{step}" / "model.safetensors", plain / f"checkpoint-{step}/model.safetensors")
    assert same(out / "model.safetensors", out / "checkpoint-6" / AVERAGE)
    assert not (out / AVERAGE).exists()
    assert not (plain / "checkpoint-6" / AVERAGE).exists()
    assert history(out, "loss") == history(plain, "loss")
    losses, others = history(out, "eval_loss"), history(plain, "eval_loss")
    assert losses[0] == others[0]
    assert losses[4] != others[4]
    assert losses[4] == evaluate(with_average(out / "checkpoint-4", tmp_path / "averaged"))
    results = json.loads((out / "eval_results.json").read_text())["eval_loss"]
    assert losses[6] == results == evaluate(out)
    assert f"The weights are averages over the optimizer steps (decay {DECAY})." in (out / "README.md").read_text()
    assert "The weights are averages" not in (plain / "README.md").read_text()


# Of no use for training: the loss rises after step 2.
BEST = ("--load_best_model_at_end", "--learning_rate", 0.3, "--eval_steps", 1)


@pytest.mark.parametrize("only_model", [[], ["--save_only_model"]])
def test_best_average_is_loaded_at_the_end(only_model, train, evaluate, tmp_path):
    out = tmp_path / "out"
    train(out, "--ema_decay", DECAY, *BEST, *only_model)
    losses, best = history(out, "eval_loss"), json.loads((out / "trainer_state.json").read_text())["best_global_step"]
    assert 0 < best < 6
    checkpoint = out / f"checkpoint-{best}"
    # What cannot be resumed has the average as its weights.
    assert (checkpoint / AVERAGE).exists() == (not only_model)
    assert same(out / "model.safetensors", checkpoint / ("model.safetensors" if only_model else AVERAGE))
    assert evaluate(out) == losses[best] == min(losses[step] for step in range(1, 7))


def test_averaging_may_begin_end_and_change_at_a_named_checkpoint(train, tmp_path):
    out, begun = tmp_path / "out", tmp_path / "begun"
    train(out)
    shutil.copytree(out / "checkpoint-4", begun / "checkpoint-4")
    named = ("--resume_from_checkpoint", begun / "checkpoint-4")
    assert "setting changed since" in train(begun, "--ema_decay", DECAY, *named)
    # Two steps of an average that begins with the weights after step 4.
    weights = [load_file(begun / f"checkpoint-{step}" / "model.safetensors") for step in (4, 5, 6)]
    first = {name: 2 / 11 * value + 9 / 11 * weights[1][name] for name, value in weights[0].items()}
    second = {name: 0.25 * value + 0.75 * weights[2][name] for name, value in first.items()}
    assert_close(load_file(begun / "model.safetensors"), second, rtol=1e-5, atol=1e-6)
    assert same(begun / "checkpoint-6" / "model.safetensors", out / "model.safetensors")
    named = ("--resume_from_checkpoint", begun / "checkpoint-5")
    assert "ema_decay 0.1 (not 0.4)" in train(begun, "--ema_decay", 0.1, *named)
    changed = {name: 0.1 * value + 0.9 * weights[2][name] for name, value in first.items()}
    assert_close(load_file(begun / "model.safetensors"), changed, rtol=1e-5, atol=1e-6)
    train(begun, *named)
    assert same(begun / "model.safetensors", out / "model.safetensors")
    assert not (begun / "checkpoint-6" / AVERAGE).exists()


def test_another_decay_is_an_error(train, tmp_path):
    out = tmp_path / "out"
    train(out, "--ema_decay", DECAY, "--save_steps", 6)
    with pytest.raises(AssertionError, match=r"ema_decay None \(not 0\.4\)"):
        train(out, "--save_steps", 6)
