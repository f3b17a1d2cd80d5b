"""The checkpoint with its own vocabulary, evaluated before the first step of a run that changes it."""

import json
import logging
import re
import shutil

import pytest

TEXT = "The tidepools of day {} hold remdesivir, and they gleam.\nA tensor of tidepools, osimertinib.\n\n"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(map(TEXT.format, range(40))))
    return path


def flags(model, text, out, *argv):
    return (
        "--model_name_or_path", model, "--train_file", text, "--do_eval", "--max_seq_length", 32, "--cache_dir",
        out.parent / "cache", "--output_dir", out, *argv,
    )  # fmt: skip


TRAIN = ("--add_vocabulary", 3, "--do_train", "--max_steps", 2, "--save_steps", 1)
LINE = "its per character before training: {:.3f} with the old vocabulary, {:.3f} with the new"


def first_evaluation(out):
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return next(entry for entry in history if "eval_loss" in entry)


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("family", ["bert", "albert"])
def test_the_figure_is_the_one_of_the_checkpoint_alone(family, validation, checkpoint, text, run_mlm_script, tmp_path):
    model, out, alone = checkpoint(family), tmp_path / "out", tmp_path / "alone"
    held_out = tmp_path / "held-out.txt"
    held_out.write_text("".join(map(TEXT.format, range(100, 110))))
    argv = ("--validation_file", held_out) * validation
    code, log, errors = run_mlm_script(*flags(model, text, out, *TRAIN, *argv))
    assert code == 0, errors
    assert "--eval_whole_word_mask is on, because only whole words can be compared across vocabularies" in log
    assert run_mlm_script(*flags(model, text, alone, "--eval_whole_word_mask", *argv))[0] == 0
    old = json.loads((alone / "eval_results.json").read_text())["eval_bits_per_character"]
    entry = first_evaluation(out)
    assert (entry["step"], entry["eval_bits_per_character_old_vocabulary"]) == (0, old)
    line = LINE.format(old, entry["eval_bits_per_character"])
    assert f"\nB{line}\n" in log
    summary = f"before training: bits per character {old:.3f}"
    assert f"  Old vocabulary      {summary}\n" in log
    assert f"| old vocabulary | {summary} |" in (out / "README.md").read_text()
    # Each thing of the run is logged once.
    assert log.count("Held-out text:") == log.count("Weights of ") == 1
    assert logging.getLogger("cloze").level == logging.INFO


def test_a_new_tokenizer_is_compared_with_the_old_one(checkpoint, text, run_mlm_script, tmp_path):
    out, alone = tmp_path / "out", tmp_path / "alone"
    argv = ("--new_tokenizer", "--vocab_size", 120, "--do_train", "--max_steps", 1)
    code, log, errors = run_mlm_script(*flags(checkpoint("bert"), text, out, *argv))
    assert code == 0, errors
    assert run_mlm_script(*flags(checkpoint("bert"), text, alone, "--eval_whole_word_mask"))[0] == 0
    old = json.loads((alone / "eval_results.json").read_text())["eval_bits_per_character"]
    assert f"\nB{LINE.format(old, first_evaluation(out)['eval_bits_per_character'])}\n" in log


def test_training_does_not_depend_on_it_and_a_resumed_run_keeps_it(checkpoint, text, run_mlm_script, tmp_path):
    argv = (*TRAIN, "--validation_file", text)
    whole, resumed, without = (tmp_path / name for name in ("whole", "resumed", "without"))
    assert run_mlm_script(*flags(checkpoint("bert"), text, whole, *argv))[0] == 0
    assert run_mlm_script(*flags(checkpoint("bert"), text, without, *argv, "--max_eval_samples", 5))[0] == 0
    shutil.copytree(whole / "checkpoint-1", resumed / "checkpoint-1")
    log = run_mlm_script(*flags(checkpoint("bert"), text, resumed, *argv))[1]
    assert "Evaluating the checkpoint" not in log
    entry = first_evaluation(whole)
    assert first_evaluation(resumed) == entry
    assert f"before training: bits per character {entry['eval_bits_per_character_old_vocabulary']:.3f}\n" in log
    weights = [(out / "model.safetensors").read_bytes() for out in (whole, resumed, without)]
    assert weights[0] == weights[1] == weights[2]


def test_fewer_examples_are_not_compared(checkpoint, text, run_mlm_script, tmp_path):
    """The first examples with one vocabulary are not those with the other."""
    out = tmp_path / "out"
    log = run_mlm_script(*flags(checkpoint("bert"), text, out, *TRAIN, "--max_eval_samples", 2))[1]
    assert "warning: not evaluating the old vocabulary: --max_eval_samples takes other text with it" in log
    assert "eval_bits_per_character_old_vocabulary" not in first_evaluation(out)


def test_each_held_out_set_is_compared(checkpoint, text, run_mlm_script, tmp_path):
    other, out = tmp_path / "other.txt", tmp_path / "out"
    other.write_text("The moon is full tonight.\n\nThe sea is calm.\n" * 9)
    argv = (*TRAIN, "--validation_file", f"domain={text}", f"general={other}")
    log = run_mlm_script(*flags(checkpoint("bert"), text, out, *argv))[1]
    entry = first_evaluation(out)
    for name in ("domain", "general"):
        key = f"eval_{name}_bits_per_character"
        figures = f"{entry[f'{key}_old_vocabulary']:.3f} with the old vocabulary, {entry[key]:.3f} with the new\n"
        assert f"\nBits per character, {name} before training: {figures}" in log
    assert log.count("with the old vocabulary") == 2
    old = [f"{name} {entry[f'eval_{name}_bits_per_character_old_vocabulary']:.3f}" for name in ("domain", "general")]
    assert f"  before training: bits per character, {old[0]}; bits per character, {old[1]}\n" in log


@pytest.mark.parametrize(
    ("share", "reason"),
    [(1, r"\d\.\d% of the held-out tokens are unknown to its tokenizer"), (9, "the tokenizer .* lacks characters")],
)
def test_a_tokenizer_that_does_not_know_the_text_is_not_compared(share, reason, checkpoint, run_mlm_script, tmp_path):
    """Its figures would be those of [UNK]."""
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text("\n\n".join(["The moon is full. " + "\u10d0\u10d1 " * share] * 60))
    code, log, errors = run_mlm_script(*flags(checkpoint("bert"), text, out, "--new_tokenizer", *TRAIN[2:]))
    assert code == 0, errors
    assert re.search(f"warning: not evaluating the old vocabulary: .*{reason}", log)
    assert "eval_bits_per_character_old_vocabulary" not in first_evaluation(out)


def test_pairs_and_masked_tokens_are_compared(pair_checkpoint, text, run_pretraining_script, tmp_path):
    out = tmp_path / "out"
    code, log, errors = run_pretraining_script(*flags(pair_checkpoint("bert"), text, out, *TRAIN))
    assert code == 0, errors
    entry = first_evaluation(out)
    old, new = entry["eval_mlm_bits_per_character_old_vocabulary"], entry["eval_mlm_bits_per_character"]
    assert f"Bits per character before training: {old:.3f} with the old vocabulary, {new:.3f} with" in log


def test_a_run_with_the_checkpoints_vocabulary_evaluates_once(checkpoint, text, run_mlm_script, tmp_path):
    log = run_mlm_script(*flags(checkpoint("bert"), text, tmp_path / "out", "--do_train", "--max_steps", 1))[1]
    assert "vocabulary" not in log.lower()
