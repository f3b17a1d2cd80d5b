"""New words for a checkpoint, through the scripts: weights, resuming, streams, dry runs, several processes."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer, XLMRobertaTokenizer

from cloze.config.arguments import ModelArguments
from cloze.models.loading import load_config, load_model
from cloze.models.vocabulary import find_rows
from cloze.tasks.masked_lm import MASKED_LM
from cloze.tokenization.added_words import add_words
from cloze.tokenization.loading import load_tokenizer
from tests.utils import FAMILIES, slow_but, start, start_together

TEXT = "The tidepools of day {} hold remdesivir, and they gleam.\nA tensor of tidepools, osimertinib.\n\n"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(map(TEXT.format, range(40))))
    return path


WORDS = ["tidepools", "remdesivir"]
MARKS = {"wordpiece": "", "byte_level": "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}", "unigram": "\u2581"}


@pytest.fixture
def model_of(checkpoint, tmp_path):
    """``model_of(family)`` is the path of a checkpoint without zeros, so that means differ."""

    def make(family):
        path = tmp_path / "biased"
        shutil.copytree(checkpoint("roberta" if family == "xlm-roberta" else family), path)
        model = AutoModelForMaskedLM.from_pretrained(path)
        with torch.no_grad():
            for weights in model.parameters():
                weights.add_(torch.randn_like(weights))
        model.save_pretrained(path)
        if family == "xlm-roberta":
            become_xlm_roberta(path)
        return str(path)

    return make


def become_xlm_roberta(path):
    """Give a checkpoint of roberta a vocabulary of Unigram."""
    settings = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(settings | {"model_type": "xlm-roberta"}))
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces = [(f"{mark}{letter}", -6.0) for mark in ("", "\u2581") for letter in "abcdefghijklmnopqrstuvwxyz"]
    rest = [(f"\u2581unused{number}", -9.0) for number in range(500 - len(special + pieces) - 1)]
    for file in path.glob("*token*"):
        file.unlink()
    XLMRobertaTokenizer(vocab=[*special, *pieces, *rest, ("<mask>", 0.0)]).save_pretrained(path)


def loaded(path):
    model_args = ModelArguments(model_name_or_path=path)
    return model_args, load_config(model_args, MASKED_LM), load_tokenizer(model_args, None)


@pytest.mark.parametrize("family", [*FAMILIES, "xlm-roberta"])
def test_weights_of_words_are_the_mean_of_their_pieces(family, model_of):
    """In input rows, output rows and biases; a piece at the beginning of a word has the mark of one."""
    path = model_of(family)
    model_args, config, own = loaded(path)
    mark = MARKS[FAMILIES[family][0] if family in FAMILIES else "unigram"]
    size, words = len(own), [f"{mark}{word}" for word in WORDS]
    before = load_model(model_args, config, MASKED_LM, 0).state_dict()
    _, config, own = loaded(path)
    rows = find_rows(model_args, config, add_words(own, words), own)
    after = load_model(model_args, config, MASKED_LM, 0, rows).state_dict()
    grown = {name: each for name, each in after.items() if each.shape != before[name].shape}
    assert len(grown) >= 3
    for number, word in enumerate(words, size):
        pieces = [piece.id for piece in own.backend_tokenizer.model.tokenize(word)]
        assert len(pieces) > 1
        for name, weights in grown.items():
            dim = weights.shape.index(size + 2)
            expected = before[name].index_select(dim, torch.tensor(pieces)).double().mean(dim)
            torch.testing.assert_close(weights.select(dim, number).double(), expected, rtol=0, atol=1e-6)
            assert torch.equal(weights.narrow(dim, 0, size), before[name])


def test_words_take_spare_rows(checkpoint):
    """Rows beyond the tokens of the checkpoint, which were never trained."""
    model_args, config, own = loaded(checkpoint("bert"))
    config.vocab_size = 512
    rows = find_rows(model_args, config, add_words(own, WORDS), own)
    assert rows.new == dict(enumerate(WORDS, 500))
    assert rows.pieces[500:502] == own(WORDS, add_special_tokens=False)["input_ids"]
    assert rows.pieces[:500] + rows.pieces[502:] == [[number] for number in range(512) if number not in (500, 501)]
    assert find_rows(model_args, config, own, own) is None


def flags(model, text, out, *argv):
    return (
        "--model_name_or_path", model, "--train_file", text, "--add_vocabulary", 3, "--do_train", "--max_steps", 2,
        "--save_steps", 1, "--max_seq_length", 32, "--per_device_train_batch_size", 4, "--cache_dir",
        out.parent / "cache", "--output_dir", out, *argv,
    )  # fmt: skip


def added(out, model):
    """Return the tokens that the saved tokenizer has beyond the checkpoint's."""
    tokenizer, own = (AutoTokenizer.from_pretrained(path) for path in (out, model))
    assert AutoModelForMaskedLM.from_pretrained(out).config.vocab_size == len(tokenizer)
    return tokenizer.convert_ids_to_tokens(list(range(len(own), len(tokenizer))))


@pytest.mark.parametrize("family", slow_but(["roberta", "albert"], FAMILIES))
def test_each_architecture_trains_with_new_words(family, checkpoint, text, run_mlm_script, tmp_path):
    out, model = tmp_path / "out", checkpoint(family)
    code, log, errors = run_mlm_script(*flags(model, text, out, "--do_eval"))
    assert code == 0, errors
    mark = {"wordpiece": "", "byte_level": "Ġ", "unigram": "▁"}[FAMILIES[family][0]]
    assert added(out, model) == [f"{mark}{word}" for word in ("tidepools", "osimertinib", "remdesivir")]
    assert f"Domain words: 3 added to the tokenizer, with their counts in the 3,670 characters of {text}: " in log
    assert "Vocabulary: 3 new tokens (tidepools, osimertinib, remdesivir) get the mean weights of their pieces" in log
    loss = {entry["step"]: entry["eval_loss"] for entry in history(out) if "eval_loss" in entry}
    assert loss.keys() == {0, 2}


def history(out):
    return json.loads((out / "trainer_state.json").read_text())["log_history"]


def test_a_resumed_run_takes_the_tokenizer_of_its_checkpoint(checkpoint, text, run_mlm_script, tmp_path):
    """Without the cache, the list of words, and the sources of its text."""
    words, whole, resumed = tmp_path / "words.txt", tmp_path / "whole", tmp_path / "resumed"
    words.write_text("flapjack")
    argv = ("--vocabulary_file", words, "--do_eval")
    assert run_mlm_script(*flags(checkpoint("roberta"), text, whole, *argv))[0] == 0
    assert added(whole, checkpoint("roberta"))[0] == "Ġflapjack"
    shutil.copytree(whole / "checkpoint-1", resumed / "checkpoint-1")
    shutil.rmtree(tmp_path / "cache")
    words.write_text("other words")
    code, log, errors = run_mlm_script(*flags(checkpoint("roberta"), text, resumed, *argv))
    assert code == 0, errors
    assert f"Resuming from {resumed}/checkpoint-1" in log
    assert "Domain words" not in log
    assert (whole / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    assert (whole / "tokenizer.json").read_bytes() == (resumed / "tokenizer.json").read_bytes()
    assert history(whole)[-1]["step"] == history(resumed)[-1]["step"] == 2
    code, _, errors = run_mlm_script(*flags(checkpoint("roberta"), text, resumed, *argv, "--add_vocabulary", 2))
    assert code == 2
    assert "was created with different settings (now add_vocabulary 2 (not 3))" in errors


@pytest.mark.parametrize("change", [("--add_vocabulary", 2), ("--vocabulary_file", "words.txt")])
def test_a_run_keeps_its_vocabulary(change, checkpoint, text, run_mlm_script, tmp_path):
    out = tmp_path / "out"
    argv = flags(checkpoint("bert"), text, out)
    assert run_mlm_script(*argv)[0] == 0
    code, _, errors = run_mlm_script(*argv, *change, "--resume_from_checkpoint", out / "checkpoint-1")
    name, value = change
    assert code == 2
    assert f"/checkpoint-1 has another vocabulary: {name[2:]} {value} (not " in errors
    assert errors.count("\n") == 1


def test_a_missing_list_is_an_error_before_the_model_is_loaded(checkpoint, text, run_mlm_script, tmp_path):
    argv = flags(checkpoint("bert"), text, tmp_path / "out", "--vocabulary_file", tmp_path / "none.txt")
    code, log, errors = run_mlm_script(*argv)
    assert code == 2
    assert (
        errors
        == f"error: --vocabulary_file {tmp_path}/none.txt is not a file: give a text file with one word per line\n"
    )
    assert "Weights of" not in log


def test_words_of_a_stream_are_those_of_its_beginning(checkpoint, text, run_mlm_script, tmp_path, monkeypatch):
    monkeypatch.setattr("cloze.tokenization.adaptation.FIRST_CHARS", 1_000)
    out = tmp_path / "out"
    code, log, errors = run_mlm_script(*flags(checkpoint("bert"), text, out, "--streaming"))
    assert code == 0, errors
    assert f"counts in the first 1,011 characters of {text}: tidepools (" in log
    assert added(out, checkpoint("bert")) == ["tidepools", "osimertinib", "remdesivir"]


@pytest.mark.parametrize("flag", ["--dry_run", "--prepare_only"])
def test_trials_and_preparations_find_the_words(flag, checkpoint, text, run_mlm_script, tmp_path):
    out = tmp_path / "out"
    code, log, errors = run_mlm_script(*flags(checkpoint("bert"), text, out, flag))
    assert code == 0, errors
    assert "Domain words: 3 added to the tokenizer" in log
    assert not (out / "model.safetensors").exists()
    assert "Reusing the extended tokenizer" in run_mlm_script(*flags(checkpoint("bert"), text, out))[1]


def test_words_of_a_text_for_replay_are_not_counted(checkpoint, text, run_mlm_script, tmp_path):
    (tmp_path / "general.txt").write_text("Their refrigerators hum.\n\n" * 300)
    code, log, errors = run_mlm_script(
        "--model_name_or_path", checkpoint("bert"), "--train_file", f"sea={text}", f"more={tmp_path / 'general.txt'}",
        "--mixture", "sea=0.8", "more=0.2", "--add_vocabulary", 2, "--max_seq_length", 32, "--do_train",
        "--prepare_only", "--cache_dir", tmp_path / "cache", "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, errors
    assert f"with their counts in the 3,670 characters of {text}: tidepools (80), osimertinib (40)\n" in log


def test_pairs_and_masked_tokens_train_with_new_words(pair_checkpoint, text, run_pretraining_script, tmp_path):
    out = tmp_path / "out"
    assert run_pretraining_script(*flags(pair_checkpoint("bert"), text, out, "--sentence_per_line"))[0] == 0
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.convert_ids_to_tokens([500, 501, 502]) == ["tidepools", "osimertinib", "remdesivir"]


@pytest.mark.slow
def test_two_processes_train_with_the_same_words(checkpoint, text, tmp_path):
    """Also with another cache, as on another node."""
    one, two = tmp_path / "one", tmp_path / "two"
    argv = ("--per_device_train_batch_size", 2, "--cache_dir", tmp_path / "other")
    shared = ("--do_eval", "--validation_split_percentage", 20)
    process = start("run_mlm", *flags(checkpoint("albert"), text, one, *shared), log=tmp_path / "log")
    processes = start_together("run_mlm", *flags(checkpoint("albert"), text, two, *shared, *argv), log=two)
    for each in (process, *processes):
        each.join()
        assert each.exitcode == 0
    assert (one / "tokenizer.json").read_bytes() == (two / "tokenizer.json").read_bytes()
    weights, expected = (load_file(out / "model.safetensors") for out in (two, one))
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=2e-5)
    before = [[value for name, value in history(out)[0].items() if "bits_per" in name] for out in (one, two)]
    assert before[0] == before[1]
    assert len(before[0]) == 2, "with the old and the new vocabulary"
