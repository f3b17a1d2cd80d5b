"""A tokenizer that replaces a checkpoint's: its conventions, ids of special tokens, text and vocabulary."""

import copy
import json
import os
import subprocess
import sys

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast, XLMRobertaTokenizer

from cloze.errors import UserError
from cloze.text.corpus import FileCorpus
from cloze.tokenization import replacement
from cloze.tokenization.properties import fingerprint, required_vocab_size
from cloze.tokenization.replacement import load_saved, place_tokens, replace_tokenizer
from cloze.tokenization.templates import pair_template_of, template_of
from tests.utils import ROOT, SAMPLE

KINDS = ["wordpiece", "byte_level", "unigram"]
GEORGIAN = "ქარი აღელვებს ზღვას, და ზღვა აღელვებს ქარს.\n\nსაქართველო მთებისა და ზღვის ქვეყანაა.\n\n"


@pytest.fixture
def georgian(tmp_path):
    path = tmp_path / "georgian.txt"
    path.write_text(GEORGIAN * 20)
    return FileCorpus((path,))


@pytest.fixture
def replaced(tmp_path):
    """``replaced(own, corpus, size)`` is the tokenizer that replaces ``own``."""
    return lambda own, corpus, size=400, limit=None: replace_tokenizer(own, [corpus], size, limit, tmp_path, False)


@pytest.mark.parametrize("kind", KINDS)
def test_words_of_the_text_become_tokens(kind, tokenizers, georgian, replaced, tmp_path):
    own = tokenizers[kind]
    new = replaced(own, georgian)
    text = "და ზღვა აღელვებს ქარს"
    ids = new(text, add_special_tokens=False)["input_ids"]
    assert len(ids) <= 14
    assert new.unk_token_id not in ids
    known = own(text, add_special_tokens=False)["input_ids"]
    assert own.unk_token_id in known or len(known) > 50
    assert len(new) == required_vocab_size(new) <= 400
    new.save_pretrained(tmp_path / "saved")
    assert fingerprint(AutoTokenizer.from_pretrained(tmp_path / "saved")) == fingerprint(new)


@pytest.mark.parametrize("kind", KINDS)
def test_all_but_the_vocabulary_stays(kind, tokenizers, georgian, replaced):
    """Normalizer, pre-tokenizer, decoder, template, special tokens and their ids, settings of the model."""
    own = tokenizers[kind]
    new = replaced(own, georgian)
    one, two = (json.loads(tokenizer.backend_tokenizer.to_str()) for tokenizer in (own, new))
    for settings in (one, two):
        for name in ("vocab", "merges"):
            settings["model"].pop(name, None)
    assert one == two
    assert type(new) is type(own)
    assert new.special_tokens_map == own.special_tokens_map
    assert new.all_special_ids == own.all_special_ids
    assert (template_of(new), pair_template_of(new)) == (template_of(own), pair_template_of(own))


def test_size_is_that_of_the_old_vocabulary_by_default(tokenizers, replaced):
    corpus = FileCorpus(tuple(sorted(SAMPLE.glob("*.txt"))))
    assert [len(replaced(tokenizers[kind], corpus, None)) for kind in KINDS] == [500, 500, 500]


def test_tokens_keep_their_ids_below_the_new_size():
    assert place_tokens(["a", "b", "c"], {"<s>": 0, "<pad>": 1, "<mask>": 99}) == [
        "<s>",
        "<pad>",
        "a",
        "b",
        "c",
        "<mask>",
    ]
    assert place_tokens(["a"], {"[SEP]": 8, "[CLS]": 7, "[PAD]": 1}) == ["a", "[PAD]", "[CLS]", "[SEP]"]


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_beyond_the_new_size_are_the_last(kind, tokenizers, georgian, replaced):
    own = copy.deepcopy(tokenizers[kind])
    own.add_tokens([AddedToken("remdesivir", single_word=True), AddedToken("<doc>", special=True)])
    new = replaced(own, georgian)
    size = len(new)
    assert new.convert_tokens_to_ids(["remdesivir", "<doc>"]) == [size - 2, size - 1]
    assert new("remdesivir <doc>", add_special_tokens=False)["input_ids"][-2:].count(size - 1) == 1
    assert size - 2 in new("remdesivir", add_special_tokens=False)["input_ids"]
    assert size - 2 not in new("remdesivirs", add_special_tokens=False)["input_ids"], "not a piece of a word"


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_unknown_token_stays_if_only_the_model_names_it(kind, tokenizers, georgian, replaced):
    """As in a bare tokenizer.json."""
    settings = json.loads(tokenizers[kind].backend_tokenizer.to_str())
    settings["added_tokens"] = [token for token in settings["added_tokens"] if token["content"] != "[UNK]"]
    own = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(settings)), pad_token="[PAD]")
    new = replaced(own, georgian)
    assert new.convert_tokens_to_ids("[UNK]") == own.convert_tokens_to_ids("[UNK]") == 1
    assert 1 in new("\U00013000", add_special_tokens=False)["input_ids"]


def test_templates_follow_their_tokens():
    template = {"special_tokens": {"[SEP]": {"id": "[SEP]", "ids": [9, 9], "tokens": ["a", "[SEP]"]}}}
    pair = {"type": "RobertaProcessing", "sep": ["b", 7], "cls": ["a", 8]}
    settings = {"type": "Sequence", "processors": [pair, template]}
    first, second = replacement._renumber(settings, {"a": 1, "b": 2, "[SEP]": 3})["processors"]
    assert (first["sep"], first["cls"]) == (["b", 2], ["a", 1])
    assert second["special_tokens"]["[SEP]"] == {"id": "[SEP]", "ids": [1, 3], "tokens": ["a", "[SEP]"]}
    assert replacement._renumber(None, {}) is None


def test_xlm_roberta_keeps_its_special_tokens(georgian, replaced):
    vocabulary = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    own = XLMRobertaTokenizer(
        vocab=[*vocabulary, *((f"\u2581{letter}", -3.0) for letter in "abcdefgh"), ("<mask>", 0.0)]
    )
    new = replaced(own, georgian, 200)
    assert new.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]) == [0, 1, 2, 3, 12]
    ids = new("აღელვებს <mask> \U00013000")["input_ids"]
    assert [ids[0], *ids[-4:]] == [0, 12, new.convert_tokens_to_ids("\u2581"), 3, 2]


def test_byte_tokens_stay_and_no_token_contains_a_space_between_words(georgian, replaced):
    """Gemma's tokenizer leaves spaces to its model, and has a token for each byte."""
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend = Tokenizer(
        models.BPE({name: i for i, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    roles = dict(zip(("pad_token", "eos_token", "bos_token", "unk_token", "mask_token"), names, strict=False))
    own = PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
    new = replaced(own, georgian, 400)
    assert new.convert_ids_to_tokens(range(261)) == names
    learned = new.convert_ids_to_tokens(range(261, len(new)))
    assert "\u2581აღელვებს" in learned
    assert not [token for token in learned if "\u2581" in token[1:]]
    text = "და აღელვებს \U00013000 ზ"
    assert new.decode(new(text)["input_ids"]) == text


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_beginning_of_a_long_text_is_used(kind, tokenizers, replaced, tmp_path, caplog):
    caplog.set_level("INFO", "cloze")
    path = tmp_path / "long.txt"
    path.write_text(f"{GEORGIAN * 5}\n\nמחר מחר מחר")
    new = replaced(tokenizers[kind], FileCorpus((path,)), 200 if kind == "unigram" else 400, limit=len(GEORGIAN) * 4)
    assert not set("מחר") & set("".join(new.get_vocab()))
    assert f"trained on the first {len(GEORGIAN) * 4:,} characters of {path}" in caplog.text


def test_slow_tokenizers_are_refused(georgian, replaced):
    with pytest.raises(UserError, match=r"^--new_tokenizer: the tokenizer of .* \(ByT5Tokenizer, slow\) cannot be"):
        replaced(ByT5Tokenizer(), georgian)


def trained_fingerprints(folder):
    """Train on a text, without a cache, and return the fingerprint of each kind."""
    owns = [load_saved(folder / kind) for kind in KINDS]
    corpus = FileCorpus((folder / "georgian.txt", SAMPLE / "music.txt"))
    return [fingerprint(replace_tokenizer(own, [corpus], 500, None, folder, overwrite=True)) for own in owns]


def test_training_is_deterministic(tokenizers, georgian, tmp_path):
    """Also in another process, where Python and the library hash strings differently, and with other threads."""
    for kind in KINDS:
        tokenizers[kind].save_pretrained(tmp_path / kind)
    script = (
        "import sys, pathlib, tests.tokenization.test_replacement as this\n"
        "print(*this.trained_fingerprints(pathlib.Path(sys.argv[1])))"
    )
    output = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        env=os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": str(ROOT), "RAYON_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert output.stdout.split() == trained_fingerprints(tmp_path), output.stderr


def test_the_cache_belongs_to_tokenizer_text_and_size(tokenizers, georgian, replaced, tmp_path, caplog):
    caplog.set_level("INFO", "cloze")
    replaced(tokenizers["wordpiece"], georgian)
    replaced(tokenizers["wordpiece"], georgian, 250)
    replaced(tokenizers["wordpiece"], georgian, limit=500)
    replaced(tokenizers["byte_level"], georgian)
    assert caplog.text.count("Saved the trained tokenizer") == 4
    replaced(tokenizers["wordpiece"], georgian)
    assert caplog.text.count("Reusing the trained tokenizer") == 1
