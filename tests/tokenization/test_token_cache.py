"""Prepare corpora: the ids of the tokenizer in few bytes, cached under keys neither too loose nor too strict."""

import copy
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast, RobertaTokenizer

from cloze.data.blocks import Blocks
from cloze.data.builders import Split
from cloze.data.splits import check_words
from cloze.errors import UserError
from cloze.system import storage
from cloze.text.corpus import FileCorpus
from cloze.tokenization import encoding, segmentation
from cloze.tokenization import token_cache as preparation
from cloze.tokenization.nanotoken import faster_encoder
from cloze.tokenization.new_tokenizer import train_tokenizer
from cloze.tokenization.segmentation import check_language
from cloze.tokenization.templates import template_of
from cloze.tokenization.token_cache import prepare, tokenize

KINDS = ["wordpiece", "byte_level", "unigram"]
DOCUMENTS = ["The Moon pulls. Water heaps up!\nTwice a day.", "Salt stays behind.", "Is it deep? Very.\nYes."]
UNITS = {
    "document": [[text] for text in DOCUMENTS],
    "line": [
        ["The Moon pulls. Water heaps up!", "Twice a day."],
        ["Salt stays behind."],
        ["Is it deep? Very.", "Yes."],
    ],
    "sentence": [
        ["The Moon pulls.", "Water heaps up!", "Twice a day."],
        ["Salt stays behind."],
        ["Is it deep?", "Very.", "Yes."],
    ],
}


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus.txt", DOCUMENTS)


def write_corpus(path, documents):
    path.write_text("\n\n".join(documents))
    return FileCorpus((path,))


def prepared(corpus, tokenizer, cache, unit="document", with_words=False, **settings):
    return prepare(corpus, tokenizer, cache, granularity=unit, with_words=with_words, **settings)


def finished(cache):
    """List the folders of prepared corpora."""
    return sorted(path for path in cache.iterdir() if path.is_dir())


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def units_of(result, documents=None):
    return [result.tokens[start:stop].tolist() for start, stop in result.spans(documents)]


# Cached ids


@pytest.mark.parametrize("chunk", [encoding.CHUNK_CHARS, 1])
@pytest.mark.parametrize("with_words", [False, True])
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("kind", KINDS)
def test_cached_ids_equal_the_tokenizers(kind, unit, with_words, chunk, corpus, tokenizers, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "CHUNK_CHARS", chunk)
    tokenizer = tokenizers[kind]
    result = prepared(corpus, tokenizer, tmp_path, unit, with_words)
    units = list(chain.from_iterable(UNITS[unit]))
    assert units_of(result) == [ids_of(tokenizer, unit) for unit in units]
    assert result.num_documents == 3
    assert result.num_sentences == 7
    assert result.counts().tolist() == {"document": [1, 1, 1], "line": [2, 1, 2], "sentence": [3, 1, 3]}[unit]
    if with_words:
        words = [tokenizer(unit, add_special_tokens=False).word_ids() for unit in units]
        expected = [word != before for ids in words for word, before in zip(ids, [None, *ids], strict=False)]
        assert result.word_starts.tolist() == expected
    else:
        assert result.word_starts is None


@pytest.mark.parametrize(
    ("size", "dtype"), [(300, "uint16"), (65_536, "uint16"), (65_537, "uint32"), (70_000, "uint32")]
)
def test_cached_token_takes_2_or_4_bytes(size, dtype, tmp_path):
    """datasets#861: 2 bytes per token, 4 if ids do not fit, and 1 more for word starts."""
    backend = Tokenizer(models.BPE({f"<{number}>": number for number in range(size)}, []))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_tokens([f"<{size - 1}>", "<1>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    corpus = write_corpus(tmp_path / "corpus.txt", [f"<{size - 1}> <1> <1>"] * 1000)
    result = prepared(corpus, tokenizer, tmp_path / "cache", with_words=True)
    assert units_of(result) == [[size - 1, 1, 1]] * 1000
    assert result.tokens.dtype == dtype
    (folder,) = finished(tmp_path / "cache")
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sizes["tokens"] == 3000 * result.tokens.itemsize
    assert sizes["word_starts"] == 3000
    assert sum(sizes.values()) == sizes["tokens"] + 3000 + 2 * 8 * 1001 + sizes["info.json"] + sizes["XXH128SUMS"]


@pytest.mark.parametrize("kind", KINDS)
def test_cache_counts_unknown_tokens(kind, tokenizers, tmp_path, monkeypatch):
    """The count covers all chunks, and is the same when the cache is reused."""
    monkeypatch.setattr(encoding, "CHUNK_CHARS", 1)
    corpus = write_corpus(tmp_path / "corpus.txt", ["Salt stays.", "Salt \U00012000 stays.", "\U00012000"])
    for _ in range(2):
        result = prepared(corpus, tokenizers[kind], tmp_path / "cache")
        count = (result.tokens == tokenizers[kind].unk_token_id).sum()
        assert result.num_unknown == count == (0 if kind == "byte_level" else 2)
        assert result.unknown_share == count / len(result.tokens)
        assert str(Split("this text", result, None)).endswith(f", {count / len(result.tokens):.1%} unknown tokens)")


def test_cache_is_memory_mapped(corpus, tokenizers, tmp_path):
    result = prepared(corpus, tokenizers["wordpiece"], tmp_path, with_words=True)
    for array in (result.tokens, result.word_starts, result.units, result.documents):
        assert isinstance(array, np.memmap)


@pytest.mark.parametrize("unit", UNITS)
def test_nanotoken_writes_the_same_cache(unit, tokenizers, texts, tmp_path, monkeypatch):
    """nanotoken encodes all chunks except the first; the cache does not depend on the backend."""
    monkeypatch.setattr(encoding, "CHUNK_CHARS", 500)
    tokenizer = tokenizers["wordpiece"]
    corpus = write_corpus(tmp_path / "corpus.txt", ["\n".join(texts[i : i + 9]) for i in range(0, len(texts), 9)])
    nanotoken = faster_encoder(tokenizer, "nanotoken", with_words=False)
    seen = []

    def watched(texts):
        seen.append(len(texts))
        return nanotoken(texts)

    for cache, faster in (("own", None), ("nanotoken", watched)):
        prepared(corpus, tokenizer, tmp_path / cache, unit, faster=faster)
    (own,), (other,) = finished(tmp_path / "own"), finished(tmp_path / "nanotoken")
    assert own.name == other.name
    assert {path.name: path.read_bytes() for path in own.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }
    assert len(seen) > 50


def test_nanotoken_differences_are_not_cached(corpus, tokenizers, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(encoding, "CHUNK_CHARS", 20)
    tokenizer = tokenizers["wordpiece"]
    own = encoding.own_encoder(tokenizer, with_words=False)
    result = prepared(corpus, tokenizer, tmp_path, faster=lambda texts: own([text[::-1] for text in texts]))
    assert units_of(result) == ids_of(tokenizer, DOCUMENTS)
    assert f"not using nanotoken: its ids differ from the tokenizer's for text 1, {DOCUMENTS[0][:20]!r}" in caplog.text


@pytest.mark.parametrize("count", [999, 1001, 2500])
def test_cache_keeps_every_document(count, tokenizers, tmp_path):
    """transformers#12438: no remainder of 1,000 texts is dropped, from the text to the blocks."""
    tokenizer = tokenizers["wordpiece"]
    documents = [f"The {number} tides" for number in range(count)]
    result = prepared(write_corpus(tmp_path / "corpus.txt", documents), tokenizer, tmp_path)
    expected = ids_of(tokenizer, documents)
    assert result.num_documents == count
    assert units_of(result) == expected
    blocks = Blocks(result.tokens, result.spans(), template_of(tokenizer), 64)
    text = np.concatenate([blocks[number]["input_ids"][1:-1] for number in range(len(blocks))])
    assert text[text != tokenizer.sep_token_id].tolist() == list(chain.from_iterable(expected))
    assert len(text) == sum(map(len, expected)) + count - 1


@pytest.mark.parametrize(
    ("documents", "lines"),
    [(None, [0, 1, 2, 3, 4]), ([0], [0, 1]), ([1], [2]), ([0, 2], [0, 1, 3, 4]), ([1, 2], [2, 3, 4]), ([], [])],
)
def test_spans_of_chosen_documents(documents, lines, corpus, tokenizers, tmp_path):
    tokenizer = tokenizers["wordpiece"]
    result = prepared(corpus, tokenizer, tmp_path, unit="line")
    chosen = None if documents is None else np.array(documents, dtype=int)
    text = "\n".join(DOCUMENTS).split("\n")
    assert units_of(result, chosen) == [ids_of(tokenizer, text[line]) for line in lines]
    assert result.spans(chosen).shape == (len(lines), 2)
    assert result.count_tokens(chosen) == sum(len(ids_of(tokenizer, text[line])) for line in lines)


@pytest.mark.parametrize(
    ("unit", "counts"),
    [("document", [1, 1, 1]), ("line", [2, 1, 2]), ("sentence", [3, 1, 3])],
)
@pytest.mark.parametrize("documents", [None, [0], [1], [0, 2], [1, 2], []])
def test_counts_of_chosen_documents_equal_their_numbers_of_spans(documents, unit, counts, corpus, tokenizers, tmp_path):
    result = prepared(corpus, tokenizers["wordpiece"], tmp_path, unit)
    chosen = None if documents is None else np.array(documents, dtype=int)
    expected = counts if documents is None else [counts[number] for number in documents]
    assert result.counts(chosen).tolist() == expected
    assert len(result.spans(chosen)) == sum(expected)


def test_text_without_tokens_is_an_error(tokenizers, tmp_path):
    corpus = write_corpus(tmp_path / "corpus.txt", ["\u200b", "\u200b\u200b"])
    with pytest.raises(
        UserError, match=r"corpus\.txt: the tokenizer finds no token in the text: give a model or --tokenizer_name"
    ):
        prepared(corpus, tokenizers["wordpiece"], tmp_path / "cache")
    assert finished(tmp_path / "cache") == []


# Sentences

# Documents, and the sentences in each.
LANGUAGES = [
    ("The sea is deep. It is\ncold, too. Why?", ["The sea is deep.", "It is\ncold, too.", "Why?"]),
    ("A line without an end\ngoes on here.", ["A line without an end\ngoes on here."]),
    ("春眠不覺曉。處處聞啼鳥！夜來風雨聲？", ["春眠不覺曉。", "處處聞啼鳥！", "夜來風雨聲？"]),  # noqa: RUF001
    ("चाँद दूर है। तारे और दूर हैं।", ["चाँद दूर है।", "तारे और दूर हैं।"]),
    ("  Blanks around.   More of them.  \n\t\n", ["Blanks around.", "More of them."]),
    ("no stop at all", ["no stop at all"]),
]


@pytest.fixture(scope="module")
def of_all_characters():
    """Train a tokenizer on every character above; otherwise a sentence would be all [UNK]."""
    tokenizer = RobertaTokenizer().train_new_from_iterator([[text] for text, _ in LANGUAGES], vocab_size=400)
    assert tokenizer.decode(ids_of(tokenizer, LANGUAGES[2][0])) == LANGUAGES[2][0]
    return tokenizer


@pytest.mark.parametrize("unit", UNITS)
def test_sentences_of_any_language_are_found(unit, of_all_characters, tmp_path):
    """Sentences end at punctuation, may span lines but not documents, and are not blank."""
    corpus = write_corpus(tmp_path / "corpus.txt", [text for text, _ in LANGUAGES])
    result = prepared(corpus, of_all_characters, tmp_path, unit)
    assert result.num_documents == 6
    # In units of lines, a sentence that spans two lines counts twice.
    assert result.num_sentences == (14 if unit == "line" else 12)
    assert (
        result.counts().tolist()
        == {
            "document": [1, 1, 1, 1, 1, 1],
            "line": [2, 2, 1, 1, 1, 1],
            "sentence": [3, 1, 3, 2, 2, 1],
        }[unit]
    )
    assert np.diff(result.spans()).min() > 0
    if unit == "sentence":
        sentences = list(chain.from_iterable(sentences for _, sentences in LANGUAGES))
        assert units_of(result) == [ids_of(of_all_characters, sentence) for sentence in sentences]
        assert [of_all_characters.decode(ids) for ids in units_of(result)] == sentences
        assert units_of(result, [2, 3]) == [ids_of(of_all_characters, s) for s in sentences[4:9]]


GERMAN = {
    "en": ["Sie kam am 3.", "Mai.", "Er kam z.B. am 4.", "Juni."],
    "de": ["Sie kam am 3. Mai.", "Er kam z.B. am 4. Juni."],
}


def test_sentences_are_found_by_the_rules_of_the_language(of_all_characters, tmp_path):
    """A date does not end a German sentence. A cache is not reused for another language."""
    corpus = write_corpus(tmp_path / "corpus.txt", [" ".join(GERMAN["de"])])
    for language, sentences in GERMAN.items():
        for unit in ("sentence", "document"):
            result = prepared(corpus, of_all_characters, tmp_path / "cache", unit, language=language)
            assert result.num_sentences == len(sentences)
        result = prepared(corpus, of_all_characters, tmp_path / "cache", "sentence", language=language)
        assert [of_all_characters.decode(ids) for ids in units_of(result)] == sentences


def test_streamed_sentences_are_found_by_the_rules_of_the_language(of_all_characters):
    encoder = encoding.own_encoder(of_all_characters, with_words=False)
    result = tokenize([GERMAN["en"]], "sentence", encoder, "de")
    assert [of_all_characters.decode(ids).split() for ids in units_of(result)] == [s.split() for s in GERMAN["de"]]


@pytest.mark.parametrize(
    ("language", "warns"), [("en", False), ("de", False), ("zz", True), ("a", True), ("deu", True)]
)
def test_language_without_rules_is_warned_about(language, warns, caplog):
    """sentencex silently uses English rules instead."""
    check_language(language)
    assert (f"--language {language} has no sentence rules: using the rules of a related" in caplog.text) == warns


@pytest.mark.parametrize("kind", KINDS)
def test_sentence_may_span_two_lines_for_every_tokenizer(kind, tokenizers, tmp_path):
    documents = ["The Moon pulls the\nwater. Twice\na day.", "Salt stays\nbehind."]
    tokenizer = tokenizers[kind]
    result = prepared(write_corpus(tmp_path / "corpus.txt", documents), tokenizer, tmp_path, "sentence")
    assert units_of(result) == ids_of(tokenizer, ["The Moon pulls the\nwater.", "Twice\na day.", "Salt stays\nbehind."])
    assert result.counts().tolist() == [2, 1]


def test_sentences_of_a_table_row_end_at_blank_lines(tokenizers, tmp_path):
    """The text of a row may contain blank lines, for example after a title."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "On tides\\n\\n  \\nWater heaps up. Twice\\na day.\\n"}\n{"text": "Salt."}\n')
    tokenizer = tokenizers["wordpiece"]
    result = prepared(FileCorpus((path,)), tokenizer, tmp_path / "cache", "sentence")
    assert units_of(result) == ids_of(tokenizer, ["On tides", "Water heaps up.", "Twice a day.", "Salt."])
    assert result.counts().tolist() == [3, 1]
    assert result.num_sentences == 4


SENTENCES = [f"{'One. Two. Three. Four.'[: 5 * (1 + number % 4)]}" for number in range(400)]


@pytest.mark.parametrize(
    ("unit", "counted", "share", "about", "least", "most"),
    [
        ("document", 10**6, 0.05, False, 1000, 1000),
        ("line", 10**6, 0.05, False, 1000, 1000),
        ("sentence", 0, 0.05, False, 1000, 1000),
        ("sentence_per_line", 0, 0.05, False, 400, 400),
        ("document", 1000, 0.05, True, 900, 1100),
        ("line", 1000, 0.05, True, 900, 1100),
        ("document", 0, 0.3, True, 700, 1300),
    ],
)
def test_sentences_are_counted_or_their_number_estimated(
    unit, counted, share, about, least, most, of_all_characters, tmp_path, monkeypatch
):
    """Sentences are counted if they are units or the text is short."""
    monkeypatch.setattr(segmentation, "COUNTED", counted)
    monkeypatch.setattr(segmentation, "COUNTED_SHARE", share)
    looked_at = []
    split = segmentation.split_sentences
    monkeypatch.setattr(segmentation, "split_sentences", lambda text, _: looked_at.append(text) or split(text, "en"))
    result = prepared(write_corpus(tmp_path / "corpus.txt", SENTENCES), of_all_characters, tmp_path, unit)
    assert result.is_estimate is about
    assert least <= result.num_sentences <= most
    if about:
        assert len("".join(looked_at)) < max(counted, share * len("".join(SENTENCES))) + 25
    part = str(Split("this text", result, None))
    assert part.endswith(
        f" from this text ({'about ' * about}{result.num_sentences:,} sentences in all, 0.0% unknown tokens)"
    )


def test_sentence_estimate_samples_the_whole_text(of_all_characters, tmp_path, monkeypatch):
    """The first half of the text has no sentence ends."""
    monkeypatch.setattr(segmentation, "COUNTED", 100)
    texts = ["no stop at all in here"] * 2000 + ["It stops. Often. So."] * 2000
    result = prepared(write_corpus(tmp_path / "corpus.txt", texts), of_all_characters, tmp_path)
    assert result.is_estimate
    assert result.num_sentences == pytest.approx(8000, rel=0.05)


# The cache


def test_prepared_cache_is_reused(corpus, tokenizers, tmp_path, monkeypatch, caplog):
    """datasets#3847: an equal tokenizer reuses the cache, also after other uses, without reading the text."""
    caplog.set_level("INFO", logger="cloze")
    tokenizer = tokenizers["wordpiece"]
    first = units_of(prepared(corpus, tokenizer, tmp_path, with_words=True))
    assert "Saved the prepared corpus in" in caplog.text
    assert "Reusing" not in caplog.text
    monkeypatch.setattr(preparation, "read_documents", None)
    other = copy.deepcopy(tokenizer)
    other(["a text", "a longer text"], padding=True, truncation=True, max_length=4)
    for each in (tokenizer, other):
        caplog.clear()
        assert units_of(prepared(corpus, each, tmp_path, with_words=True)) == first
        assert f"Reusing the prepared corpus in {finished(tmp_path)[0]}" in caplog.text


def test_overwrite_prepares_again(corpus, tokenizers, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", logger="cloze")
    tokenizer = tokenizers["wordpiece"]
    first = prepared(corpus, tokenizer, tmp_path)
    (folder,) = finished(tmp_path)
    (folder / "tokens").write_bytes(bytes(first.tokens.nbytes))
    storage.seal(folder, storage.XXH128)
    assert set(prepared(corpus, tokenizer, tmp_path).tokens.tolist()) == {0}
    caplog.clear()
    assert units_of(prepared(corpus, tokenizer, tmp_path, overwrite=True)) == ids_of(tokenizer, DOCUMENTS)
    assert "Reusing" not in caplog.text
    assert finished(tmp_path) == [folder]


def without_normalizer(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def with_an_added_word(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["behind"])
    return tokenizer


@pytest.mark.parametrize("change", [without_normalizer, with_an_added_word])
def test_cache_is_not_reused_for_another_tokenizer(change, corpus, tokenizers, tmp_path):
    """datasets#3847: tokenizers may differ although class and even vocabulary are the same."""
    tokenizer = tokenizers["wordpiece"]
    other = change(tokenizer)
    assert ids_of(other, DOCUMENTS) != ids_of(tokenizer, DOCUMENTS)
    for each in (tokenizer, other, tokenizer):
        assert units_of(prepared(corpus, each, tmp_path)) == ids_of(each, DOCUMENTS)
    assert len(finished(tmp_path)) == 2


def test_cache_is_not_reused_for_another_text(corpus, tokenizers, tmp_path):
    """datasets#3847: a text of the same length, and the same file with a second one, are other texts."""
    tokenizer = tokenizers["wordpiece"]
    (path,) = corpus.files
    prepared(corpus, tokenizer, tmp_path)
    changed = [text.replace("deep", "salt") for text in DOCUMENTS]
    before = path.stat().st_mtime_ns
    write_corpus(path, changed)
    os.utime(path, ns=(before + 1, before + 1))
    assert units_of(prepared(FileCorpus(corpus.files), tokenizer, tmp_path)) == ids_of(tokenizer, changed)
    second = tmp_path / "more.txt"
    second.write_text("More of it")
    both = FileCorpus((path, second))
    assert units_of(prepared(both, tokenizer, tmp_path)) == ids_of(tokenizer, [*changed, "More of it"])
    assert len(finished(tmp_path)) == 3


def test_cache_is_not_reused_for_other_settings(corpus, tokenizers, tmp_path):
    for _ in range(2):
        for unit, count in (("document", 3), ("line", 5), ("sentence", 7)):
            for with_words in (False, True):
                result = prepared(corpus, tokenizers["wordpiece"], tmp_path, unit, with_words)
                assert len(result.spans()) == count
                assert (result.word_starts is not None) == with_words
    assert len(finished(tmp_path)) == 6


def test_cache_is_not_reused_for_another_column(tokenizers, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("title,body\nTides,Water heaps up\n")
    tokenizer = tokenizers["wordpiece"]
    for column, text in (("title", "Tides"), ("body", "Water heaps up")):
        assert units_of(prepared(FileCorpus((path,), column), tokenizer, tmp_path)) == [ids_of(tokenizer, text)]


def test_half_written_cache_is_replaced(corpus, tokenizers, tmp_path):
    """transformers#35782: files that a killed process left are never read."""
    tokenizer = tokenizers["wordpiece"]
    prepared(corpus, tokenizer, tmp_path)
    (folder,) = finished(tmp_path)
    partial = folder.with_name(folder.name + ".partial")
    folder.rename(partial)
    (partial / "tokens").write_bytes(b"\x01\x00\x01")
    (partial / "info.json").unlink()
    (partial / "left").touch()
    assert units_of(prepared(corpus, tokenizer, tmp_path)) == ids_of(tokenizer, DOCUMENTS)
    assert finished(tmp_path) == [folder]
    assert not (folder / "left").exists()


def test_error_leaves_no_cache(corpus, tokenizers, tmp_path, monkeypatch):
    def broken(corpus):
        yield DOCUMENTS[:1]
        raise UserError("no text")

    tokenizer = tokenizers["wordpiece"]
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "read_documents", broken)
        with pytest.raises(UserError, match="no text"):
            prepared(corpus, tokenizer, tmp_path)
    assert finished(tmp_path) == []
    assert units_of(prepared(corpus, tokenizer, tmp_path)) == ids_of(tokenizer, DOCUMENTS)


@pytest.mark.parametrize("overwrite", [False, True])
def test_concurrent_writers_make_one_cache(overwrite, corpus, tokenizers, tmp_path, monkeypatch):
    """transformers#17106: processes wait for each other at a file lock."""
    tokenizer = tokenizers["wordpiece"]
    inside, written, together = [], [], threading.Barrier(4)
    write = preparation.write

    def watched(*arguments, **settings):
        inside.append(1)
        assert len(inside) == 1, "two write at once"
        write(*arguments, **settings)
        written.append(1)
        inside.pop()

    monkeypatch.setattr(preparation, "write", watched)

    def work(_):
        together.wait()
        return units_of(prepared(corpus, copy.deepcopy(tokenizer), tmp_path, overwrite=overwrite))

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(4)))
    assert results == [ids_of(tokenizer, DOCUMENTS)] * 4
    assert overwrite or len(written) == 1
    assert len(finished(tmp_path)) == 1


def test_cache_is_opened_before_another_process_may_remove_it(corpus, tokenizers, tmp_path, monkeypatch):
    """transformers#17106: with --overwrite_cache, each process that gets the lock removes the previous result."""

    class Lock(storage.FileLock):
        def release(self, force=False):
            super().release(force)
            for folder in finished(tmp_path):
                shutil.rmtree(folder)

    monkeypatch.setattr(storage, "FileLock", Lock)
    tokenizer = tokenizers["wordpiece"]
    assert units_of(prepared(corpus, tokenizer, tmp_path, overwrite=True)) == ids_of(tokenizer, DOCUMENTS)


# Words

ENGLISH, KOREAN = (
    "The moon is far away, and the sun is farther.\n",
    "봄 잠에 날이 밝은 줄 몰랐더니 곳곳에서 새 우는 소리\n",
)
CHINESE, JAPANESE = "春眠不覺曉。處處聞啼鳥。\n", "春は眠い。鳥が鳴く。夜は雨の音。\n"


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        (CHINESE, True),
        (JAPANESE, True),
        (CHINESE * 2 + ENGLISH, True),
        (CHINESE + ENGLISH * 2, False),
        (ENGLISH, False),
        (KOREAN, False),
    ],
    ids=["Chinese", "Japanese", "mostly Chinese", "mostly English", "English", "Korean"],
)
def test_single_character_words_are_warned_about(text, warned, tmp_path, caplog):
    """google-bert#780: BERT's tokenizer treats each Chinese character as a word."""
    corpus = write_corpus(tmp_path / "corpus.txt", [text * 9])
    tokenizer = train_tokenizer([corpus], "bert", 300, False, tmp_path, overwrite=False)
    check_words(prepared(corpus, tokenizer, tmp_path, with_words=True), tokenizer, "--whole_word_mask")
    assert ("--whole_word_mask has little effect" in caplog.text) == warned
