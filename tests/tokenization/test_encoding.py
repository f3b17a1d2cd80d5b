"""Encode text exactly as the tokenizer itself does, with any backend, and in the order of the text."""

import copy
import logging
import sys
import threading
from itertools import chain

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizer, ByT5Tokenizer

from cloze.errors import UserError
from cloze.tokenization import encoding, nanotoken, token_cache
from cloze.tokenization.encoding import Encoded, encode, own_encoder
from cloze.tokenization.nanotoken import faster_encoder
from cloze.tokenization.properties import plain_backend
from cloze.tokenization.token_cache import encode_ahead
from tests.utils import truncating

KINDS = ["wordpiece", "byte_level", "unigram"]


def ids_of(tokenizer, texts):
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def lists(encoded):
    """Return the ids of each text."""
    return [ids.tolist() for ids, _ in encoded.texts()]


def numbers(texts):
    """Encode texts that are numbers: each is its own only id; the empty text has none."""
    lengths = np.array([bool(text) for text in texts], dtype=np.int64)
    return Encoded(np.array([int(text) for text in texts if text], dtype=np.uint32), None, lengths)


@pytest.fixture
def warnings(caplog):
    caplog.set_level("WARNING", logger="cloze")
    return caplog


# The tokenizer itself


@pytest.mark.parametrize("chunk", [encoding.CHUNK_CHARS, 300])
@pytest.mark.parametrize("with_words", [False, True])
@pytest.mark.parametrize("as_found", [copy.deepcopy, truncating])
@pytest.mark.parametrize("kind", KINDS)
def test_encoded_ids_equal_the_tokenizers(kind, as_found, with_words, chunk, tokenizers, texts, monkeypatch):
    monkeypatch.setattr(encoding, "CHUNK_CHARS", chunk)
    odd = ["", "\u00e9 [MASK] <mask> \U0001f991"]
    documents = [texts[:3], [], odd, [" ".join(texts[:20])], *([text] for text in texts[20:60]), [""]]
    encoded = list(encode(documents, as_found(tokenizers[kind]), with_words))
    assert [len(units) for units in encoded] == [len(document) for document in documents]
    for document, units in zip(documents, encoded, strict=True):
        for text, (ids, word_starts) in zip(document, units, strict=True):
            expected = tokenizers[kind](text, add_special_tokens=False)
            assert ids.tolist() == expected["input_ids"]
            if with_words:
                words = expected.word_ids()
                pairs = zip(words, [None, *words], strict=False)
                assert word_starts.tolist() == [word is None or word != before for word, before in pairs]
            else:
                assert word_starts is None
    assert max(len(ids) for units in encoded for ids, _ in units) > 500


# Groups of three digits, from the left.
DIGITS = pre_tokenizers.Split(Regex(r"\p{N}{1,3}|\s?\p{L}+|\s+|[^\s\p{L}\p{N}]"), "isolated")
# Groups of three digits from the right, such as 1 234 567.
THOUSANDS = pre_tokenizers.Split(
    Regex(r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))|\s?\p{L}+|\s+|[^\s\p{L}\p{N}]"), "isolated"
)


def trained_bpe(texts, pre_tokenizer, normalizer=None):
    backend = Tokenizer(models.BPE(unk_token="?"))
    backend.pre_tokenizer, backend.normalizer = pre_tokenizer, normalizer
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["?"], show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return backend


@pytest.fixture(scope="module")
def backends(tokenizers, texts):
    """Return tokenizers, and whether their texts can be cut."""
    added = copy.deepcopy(tokenizers["byte_level"]).backend_tokenizer
    added.add_tokens([AddedToken("of the", normalized=True), AddedToken("and", lstrip=True, rstrip=True)])
    texts = [*texts, *nanotoken.HARD_TEXTS]
    metaspace = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    return {
        **{kind: (plain_backend(tokenizer), True) for kind, tokenizer in tokenizers.items()},
        "added tokens": (added, True),
        "digits": (trained_bpe(texts, DIGITS, normalizers.NFC()), True),
        "thousands": (trained_bpe(texts, THOUSANDS, normalizers.NFC()), True),
        "without words": (trained_bpe(texts, None, metaspace), False),
        "fixed length": (trained_bpe(texts, pre_tokenizers.FixedLength(length=5)), False),
    }


@pytest.mark.parametrize("kind", [*KINDS, "added tokens", "digits", "thousands", "without words", "fixed length"])
@pytest.mark.parametrize("seed", range(3))
def test_long_text_is_encoded_in_chunks_to_the_same_ids(kind, seed, backends, texts, monkeypatch):
    """A text is not cut if it is all one word, or if its words depend on where it begins."""
    monkeypatch.setattr(encoding, "PIECE", 700)
    monkeypatch.setattr(encoding, "CHUNK_CHARS", 2800)
    backend, is_cut = backends[kind]
    rng = np.random.default_rng(seed)
    odd = [
        *nanotoken.HARD_TEXTS,
        " " * 1000,
        "7" * 2000,
        "123" * 600,
        " \n5",
        "漢字仮名中文" * 200,
        "a\u0301\u0323 " * 300,
    ]
    pool = [*texts, *(odd * (len(texts) // len(odd) // 3))]
    text = " ".join(pool[number] for number in rng.integers(len(pool), size=100))
    pieces = list(encoding.cut_text(text, backend))
    assert "".join(pieces) == text
    assert (len(pieces) > len(text) / 700 / 3) if is_cut else (len(pieces) < len(text) / 700 / 3)
    texts = [text, "", text[:50], text]
    expected = backend.encode_batch(texts, add_special_tokens=False)
    for with_words in (False, True):
        found = encoding.encode_fast(texts, backend, with_words)
        assert lists(found) == [encoding.ids for encoding in expected]
    words = [word for each in expected for word in zip(each.word_ids, [None, *each.word_ids], strict=False)]
    assert found.word_starts.tolist() == [word is None or word != before for word, before in words]


def test_slow_tokenizer_encodes():
    tokenizer = ByT5Tokenizer()
    ((ids, words),) = next(encode([["Tide"]], tokenizer, with_words=False))
    assert ids.tolist() == [byte + 3 for byte in b"Tide"]
    assert words is None


# Chunks


@pytest.mark.parametrize("ahead", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 30])
def test_chunks_keep_their_order(count, ahead, monkeypatch):
    """A later chunk may be tokenized sooner."""
    monkeypatch.setattr(encoding, "CHUNK_CHARS", 4)
    monkeypatch.setattr(token_cache, "PREFETCH", ahead)
    documents = [[str(1000 + 2 * n), "", str(1001 + 2 * n)] if n % 5 else [] for n in range(count)]
    later = threading.Event()

    def encoder(texts):
        if "1004" in texts and ahead > 1 and count > 3:  # the first chunk that a thread tokenizes
            assert later.wait(20)
        elif "1006" in texts:
            later.set()
        return numbers(texts)

    chunks = list(encode_ahead(documents, numbers, None if count < 2 else encoder))
    if count:
        assert np.concatenate([encoded.ids for encoded, _ in chunks]).tolist() == [
            int(text) for text in chain.from_iterable(documents) if text
        ]
        assert np.concatenate([encoded.lengths for encoded, _ in chunks]).tolist() == [
            bool(text) for text in chain.from_iterable(documents)
        ]
    assert list(chain.from_iterable(counts for _, counts in chunks)) == [len(document) for document in documents]


def test_chunks_in_memory_are_bounded(monkeypatch):
    """A slow consumer of the ids must not fill the memory."""
    monkeypatch.setattr(encoding, "CHUNK_CHARS", 1)
    read = []
    documents = ([str(read.append(n) or n)] for n in range(100))
    for number, (encoded, _) in enumerate(encode_ahead(documents, numbers)):
        assert encoded.ids.tolist() == [number]
        assert len(read) <= number + 2 + token_cache.PREFETCH


def test_error_in_reader_or_tokenizer_is_raised(monkeypatch):
    monkeypatch.setattr(encoding, "CHUNK_CHARS", 1)

    def broken():
        yield from (["1"], ["2"], ["3"])
        raise UserError("line 4 is not UTF-8")

    with pytest.raises(UserError, match="line 4"):
        list(encode_ahead(broken(), numbers))
    with pytest.raises(ValueError, match="'three'"):
        list(encode_ahead([["1"], ["2"], ["three"], ["4"]], numbers))


# nanotoken


@pytest.fixture(params=["lower case", "accents stripped", "cased", "Chinese kept together", "words added"])
def wordpiece(request, texts):
    """Train a WordPiece tokenizer with each kind of normalization."""
    settings = {
        "lower case": {"do_lower_case": True, "strip_accents": False},
        "accents stripped": {"do_lower_case": True, "strip_accents": None},
        "cased": {"do_lower_case": False},
        "Chinese kept together": {"do_lower_case": True, "tokenize_chinese_chars": False},
        "words added": {"do_lower_case": True},
    }[request.param]
    tokenizer = BertTokenizer(**settings).train_new_from_iterator([texts, nanotoken.HARD_TEXTS], vocab_size=900)
    if request.param == "words added":
        tokenizer.add_tokens(["behind", "Déjà Vu"])
    return tokenizer


@pytest.mark.parametrize("as_found", [copy.deepcopy, truncating])
@pytest.mark.parametrize("choice", ["auto", "nanotoken"])
def test_nanotoken_gives_the_ids_of_the_tokenizer(choice, as_found, wordpiece, texts, warnings):
    faster = faster_encoder(as_found(wordpiece), choice, with_words=False)
    sample = [*texts, *nanotoken.HARD_TEXTS, "behind Déjà Vu déjà vu[MASK]"]
    found = faster(sample)
    assert lists(found) == ids_of(wordpiece, sample)
    assert found.word_starts is None
    assert faster([]).ids.tolist() == faster([]).lengths.tolist() == []
    assert not warnings.records


def test_nanotoken_is_not_used_with_the_backend_tokenizers(tokenizers, monkeypatch):
    monkeypatch.setitem(sys.modules, "nanotoken", None)
    assert faster_encoder(tokenizers["wordpiece"], "tokenizers", with_words=False) is None


def not_installed(tokenizers, monkeypatch):
    monkeypatch.setitem(sys.modules, "nanotoken", None)
    return tokenizers["wordpiece"]


def unsupported(tokenizers, _):
    tokenizer = copy.deepcopy(tokenizers["wordpiece"])
    tokenizer.backend_tokenizer.pre_tokenizer = tokenizers["byte_level"].backend_tokenizer.pre_tokenizer
    return tokenizer


@pytest.mark.parametrize(
    ("make", "with_words", "culprit", "cure"),
    [
        (not_installed, False, "nanotoken", "pip install nanotoken, or drop the flag"),
        (unsupported, False, "does not support BertTokenizer (", "drop the flag"),
        (
            lambda tokenizers, _: tokenizers["byte_level"],
            False,
            "needs a fast WordPiece tokenizer, and RobertaTokenizer is BPE",
            "drop the flag",
        ),
        (
            lambda *_: ByT5Tokenizer(),
            False,
            "needs a fast WordPiece tokenizer, and ByT5Tokenizer is slow",
            "drop the flag",
        ),
        (lambda tokenizers, _: tokenizers["wordpiece"], True, "--whole_word_mask", "drop it, or them"),
    ],
    ids=["not installed", "unknown part", "BPE", "slow", "whole words"],
)
def test_nanotoken_reports_where_it_cannot_be_used(make, with_words, culprit, cure, tokenizers, monkeypatch, warnings):
    """This is an error only if the backend was chosen."""
    tokenizer = make(tokenizers, monkeypatch)
    assert faster_encoder(tokenizer, "auto", with_words) is None
    assert not warnings.records
    with pytest.raises(UserError) as error:
        faster_encoder(tokenizer, "nanotoken", with_words)
    assert str(error.value).startswith("--tokenizer_backend nanotoken")
    assert culprit in str(error.value)
    assert cure in str(error.value)


def other_normaliser(tokenizer, monkeypatch):
    """Make nanotoken lower-case the text."""
    nanotoken_encoder = nanotoken.nanotoken_encoder

    def lower_cases(tokenizer, with_words):
        encoder = nanotoken_encoder(tokenizer, with_words)
        return lambda texts: encoder([text.lower() for text in texts])

    monkeypatch.setattr(nanotoken, "nanotoken_encoder", lower_cases)


@pytest.mark.parametrize("choice", ["auto", "nanotoken"])
def test_nanotoken_difference_in_a_hard_text_is_reported(choice, tokenizers, monkeypatch, warnings):
    tokenizer = tokenizers["wordpiece"]
    other_normaliser(tokenizer, monkeypatch)
    (number, text), *_ = (
        (number, text)
        for number, text in enumerate(nanotoken.HARD_TEXTS, 1)
        if ids_of(tokenizer, text) != ids_of(tokenizer, text.lower())
    )
    assert faster_encoder(tokenizer, choice, with_words=False) is None
    (record,) = warnings.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"not using nanotoken: its ids differ from the tokenizer's for test {number}, {text[:60]!r}"
    )


def test_hard_texts_include_added_tokens(tokenizers, monkeypatch, warnings):
    tokenizer = copy.deepcopy(tokenizers["wordpiece"])
    tokenizer.add_tokens(["xylem"])
    monkeypatch.setattr(nanotoken, "nanotoken_encoder", lambda *_: own_encoder(tokenizers["wordpiece"], False))
    assert faster_encoder(tokenizer, "auto", with_words=False) is None
    assert "'xylem axylemb" in warnings.text


@pytest.mark.parametrize(
    ("ids", "lengths"),
    [
        ([10, 11, 12, 99, 14, 15], [1, 1, 1, 1, 1, 1]),
        ([10, 11, 12, 14, 15], [1, 1, 1, 0, 1, 1]),
        ([10, 11, 12, 13, 14, 15], [1, 1, 1, 2, 0, 1]),
    ],
    ids=["other id", "missing id", "id of the next text"],
)
def test_nanotoken_difference_in_the_first_chunk_discards_it(ids, lengths, monkeypatch, warnings):
    monkeypatch.setattr(encoding, "CHUNK_CHARS", 12)
    documents = [["10", "11"], ["12"], ["13", "14", "15"], ["16"], ["17"], ["18", "19", "20", "21"]]
    wrong = Encoded(np.array(ids, dtype=np.uint32), None, np.array(lengths))
    chunks = list(encode_ahead(documents, numbers, lambda _: wrong))
    assert [encoded.ids.tolist() for encoded, _ in chunks] == [[10, 11, 12, 13, 14, 15], [16, 17, 18, 19, 20, 21]]
    assert len(warnings.records) == 1
    assert "not using nanotoken: its ids differ from the tokenizer's for text 4, '13'" in warnings.text


def test_nanotoken_is_checked_on_the_first_chunk(monkeypatch, warnings):
    monkeypatch.setattr(encoding, "CHUNK_CHARS", 4)
    seen = {"own": [], "faster": []}

    def watched(name):
        return lambda texts: seen[name].append(texts) or numbers(texts)

    chunks = list(encode_ahead([["10", "1122", "33"], ["12", "13"], ["14"]], watched("own"), watched("faster")))
    assert [encoded.ids.tolist() for encoded, _ in chunks] == [[10, 1122, 33], [12, 13], [14]]
    assert seen["own"] == [["10", "11"]]
    assert sorted(seen["faster"]) == [["10", "11"], ["10", "1122", "33"], ["12", "13"], ["14"]]
    assert not warnings.records
