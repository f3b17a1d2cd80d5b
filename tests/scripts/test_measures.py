"""Evaluations of whole scripts, compared with transformers: bits per character, whole words, intervals."""

import json
import math
import re

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForMaskedLM, AutoTokenizer

from cloze.data.collators import IGNORED, MaskingCollator
from cloze.data.held_out import draws_of
from cloze.objectives.documents import DocumentSums, change_of_loss
from cloze.training.baseline import BASELINE
from cloze.training.trainer import PretrainingTrainer


class Killed(BaseException):
    """Simulate kill -9 in a process that lives on."""


@pytest.fixture
def held_out_text(texts, tmp_path):
    path = tmp_path / "held-out.txt"
    path.write_text("\n\n".join("\n".join(texts[begin : begin + 3]) for begin in range(300, 336, 3)))
    return path


@pytest.fixture
def train(run_mlm_script, checkpoint, texts, held_out_text, tmp_path):
    """``train(out, ...)`` adapts a tiny BERT with these further arguments, and returns its output."""
    (tmp_path / "text.txt").write_text("\n".join(texts[:200]))

    def run(out, *argv):
        code, printed, errors = run_mlm_script(
            "--model_name_or_path", checkpoint("bert"), "--train_file", tmp_path / "text.txt",
            "--validation_file", held_out_text, "--max_seq_length", 64, "--do_train", "--do_eval", "--max_steps", 6,
            "--learning_rate", 0.01, "--save_steps", 2, "--output_dir", out, *argv,
        )  # fmt: skip
        assert code == 0, errors
        return printed

    return run


def results_of(out):
    return json.loads((out / "eval_results.json").read_text())


def blocks_by_hand(text, tokenizer):
    """Return the blocks of a text, with the number of each token's document, its word and its characters."""
    joined = []
    for number, document in enumerate(text.split("\n\n")):
        encoding = tokenizer(document, add_special_tokens=False, return_offsets_mapping=True)
        characters = [len("".join(document[slice(*span)].split())) for span in encoding["offset_mapping"]]
        words = [number * 2**32 + word for word in encoding.word_ids()]
        separator = (tokenizer.sep_token_id, number, -1, 0)
        joined += [separator] * (number > 0)
        joined += zip(encoding["input_ids"], [number] * len(words), words, characters, strict=True)
    special = (tokenizer.cls_token_id, 0, -1, 0), (tokenizer.sep_token_id, 0, -1, 0)
    for begin in range(0, len(joined), 62):
        yield np.array([special[0], *joined[begin : begin + 62], special[1]])


def losses_by_hand(path, held_out_text, own_tokenizer):
    """Return the sum of the losses, the count, and the characters of the masked tokens of each document."""
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(own_tokenizer)
    collator = MaskingCollator(tokenizer, eval_whole_words=True)
    sums = np.zeros((12, 3))
    for number, block in enumerate(blocks_by_hand(held_out_text.read_text(), tokenizer)):
        ids, documents, words, characters = block.T
        batch = collator([{"input_ids": ids, "words": words, "example": number}])
        labels = batch["labels"][0, : len(ids)].numpy()
        chosen = np.flatnonzero(labels != IGNORED)
        assert chosen.tolist() == np.flatnonzero((draws_of(words)[0] < 0.15) & (words >= 0)).tolist()
        assert labels[chosen].tolist() == ids[chosen].tolist()
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[0]
        losses = cross_entropy(logits[chosen], torch.tensor(ids[chosen]), reduction="none").numpy()
        for place, loss in zip(chosen, losses, strict=True):
            sums[documents[place]] += (loss, 1, characters[place])
    return sums


def test_measures_equal_those_of_transformers(train, held_out_text, checkpoint, tmp_path):
    """Loss, bits per character, and change with its interval, reckoned from the saved models document by document."""
    printed = train(tmp_path / "out", "--eval_whole_word_mask")
    before, after = (
        losses_by_hand(path, held_out_text, tmp_path / "out") for path in (checkpoint("bert"), tmp_path / "out")
    )
    results = results_of(tmp_path / "out")
    loss, count, characters = after.sum(0)
    assert results["eval_masked_tokens"] == count > 40
    assert results["eval_loss"] == pytest.approx(loss / count, rel=1e-5)
    assert results["eval_bits_per_character"] == pytest.approx(loss / math.log(2) / characters, rel=1e-5)
    sums = [DocumentSums(*each[each[:, 1] > 0, :2].T.tolist()) for each in (before, after)]
    change = change_of_loss(*sums, np.random.default_rng(0))
    assert results["eval_loss_change"] == pytest.approx(change.value, rel=1e-4)
    assert results["eval_loss_change_interval"] == pytest.approx([change.low, change.high], rel=1e-4)
    low, high = results["eval_loss_change_interval"]
    told = f"{change.value:+.3f} (95% interval {low:+.3f} to {high:+.3f})"
    loss_before = before[:, 0].sum() / count
    assert f"{loss_before:.3f} before, {results['eval_loss']:.3f} after: {told}" in printed
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| masked loss | {loss_before:.3f} before, " in card
    assert "| bits per character | " in card
    assert "type: bits_per_character" in card


def test_a_killed_run_has_the_interval_of_the_whole_run(train, tmp_path, monkeypatch):
    train(tmp_path / "whole")
    evaluate = PretrainingTrainer.compute_loss

    def dying(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise Killed
        return evaluate(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(PretrainingTrainer, "compute_loss", dying)
        with pytest.raises(Killed):
            train(tmp_path / "out")
    printed = train(tmp_path / "out")
    assert "Resuming from" in printed
    whole, resumed = results_of(tmp_path / "whole"), results_of(tmp_path / "out")
    assert resumed["eval_loss_change_interval"] == whole["eval_loss_change_interval"]
    assert resumed["eval_loss_change"] == whole["eval_loss_change"] < 0


def test_a_new_run_does_not_use_the_baseline_of_an_earlier_one(train, tmp_path):
    """Started over without an evaluation, and then evaluated at its end, a run has nothing to compare with."""
    train(tmp_path / "out")
    train(tmp_path / "out", "--overwrite_output_dir", "--do_eval", "false", "--seed", 5)
    assert not (tmp_path / "out" / BASELINE).exists()
    printed = train(tmp_path / "out", "--seed", 5)
    assert "already complete" in printed
    assert "eval_loss_change" not in results_of(tmp_path / "out")
    assert "Masked loss" not in printed


def test_an_evaluation_alone_has_no_change(run_mlm_script, checkpoint, held_out_text, tmp_path):
    code, printed, errors = run_mlm_script(
        "--model_name_or_path", checkpoint("bert"), "--validation_file", held_out_text, "--do_eval",
        "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, errors
    assert "eval_loss_change" not in results_of(tmp_path / "out")
    assert "Bits per character" in printed


@pytest.mark.parametrize("flags", [(), ("--eval_whole_word_mask",)])
def test_evaluation_does_not_depend_on_masks_of_training(flags, train, tmp_path):
    train(tmp_path / "one", *flags, "--max_steps", 1, "--learning_rate", 0)
    train(tmp_path / "two", *flags, "--max_steps", 1, "--learning_rate", 0, "--whole_word_mask", "--seed", 7)
    one, two = (results_of(tmp_path / name) for name in ("one", "two"))
    assert one["eval_loss"] == two["eval_loss"]
    assert one["eval_bits_per_character"] == two["eval_bits_per_character"]
    assert (one["eval_loss_change"], one["eval_loss_change_interval"]) == (0, [0, 0])


@pytest.mark.parametrize("strategy", ["segment", "sentence"])
def test_both_objectives_have_a_change(strategy, run_pretraining_script, pair_checkpoint, held_out_text, tmp_path):
    code, printed, errors = run_pretraining_script(
        "--model_name_or_path", pair_checkpoint("bert"), "--train_file", held_out_text, "--validation_file",
        held_out_text, "--sentence_per_line", "--pair_strategy", strategy, "--max_seq_length", 64, "--do_train",
        "--do_eval", "--eval_whole_word_mask", "--max_steps", 3, "--learning_rate", 0.01, "--output_dir",
        tmp_path / "out",
    )  # fmt: skip
    assert code == 0, errors
    results = results_of(tmp_path / "out")
    for name in ("eval_mlm_loss_change", "eval_nsp_loss_change"):
        low, high = results[f"{name}_interval"]
        assert low < results[name] < high
    assert 0 < results["eval_mlm_bits_per_character"] < 20
    assert "Masked loss" in printed
    assert printed.count("95% interval") == 2


def test_each_held_out_set_has_its_own_change(train, texts, held_out_text, tmp_path):
    """A set that is a copy of the first one has its figures; one whose loss rises is named in words."""
    lines = ["zq jx vw kz qq xx jj"] * 30
    (tmp_path / "other.txt").write_text("\n\n".join(lines))
    sets = (f"domain={held_out_text}", f"copy={held_out_text}", f"other={tmp_path / 'other.txt'}")
    printed = train(tmp_path / "out", "--validation_file", *sets, "--max_steps", 30)
    results = results_of(tmp_path / "out")
    for name in ("loss_change", "loss_change_interval", "bits_per_character"):
        assert results[f"eval_domain_{name}"] == results[f"eval_copy_{name}"] == results[f"eval_{name}"]
    assert results["eval_domain_loss_change_interval"][1] < 0 < results["eval_other_loss_change_interval"][0]
    assert "Got worse " in printed
    assert re.search(r"Got worse +masked loss, other\n", printed)
