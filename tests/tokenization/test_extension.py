"""A checkpoint's tokenizer extended by words of a text or of a list, cached, with a report."""

import pytest

from cloze.errors import UserError
from cloze.text.corpus import FileCorpus
from cloze.tokenization.extension import extend_tokenizer, measure, read_word_list
from cloze.tokenization.properties import fingerprint
from cloze.tokenization.token_cache import prepare

KINDS = ("wordpiece", "byte_level", "unigram")
TEXT = "The tidepools of day {} hold remdesivir.\nThe tidepools, they hold osimertinib, tidepools.\n\n"


@pytest.fixture
def corpora(tmp_path):
    """Two sources, of which the second has other words."""
    paths = [tmp_path / "one.txt", tmp_path / "two.txt"]
    paths[0].write_text("".join(map(TEXT.format, range(6))))
    paths[1].write_text("axolotl axolotls " * 7)
    return [FileCorpus((path,)) for path in paths]


def extend(tokenizer, corpora, cache, number=None, word_list=None, limit=10_000):
    return extend_tokenizer(tokenizer, corpora, number, word_list and str(word_list), limit, cache, False)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_saved_are_those_of_the_prepared_text(kind, tokenizers, corpora, tmp_path, caplog):
    caplog.set_level("INFO", "cloze")
    tokenizer = tokenizers[kind]
    extended = extend(tokenizer, corpora, tmp_path, 3)
    assert len(extended) == 503
    before, after = (
        sum(
            len(prepare(corpus, each, tmp_path / "cache", granularity="document", with_words=False).tokens)
            for corpus in corpora
        )
        for each in (tokenizer, extended)
    )
    share = 100 * (before - after) / before
    assert f"Tokens saved: {before - after:,} of {before:,}, {share:.1f} % of that text" in caplog.messages
    assert before - after > 50
    (line,) = (text for text in caplog.messages if text.startswith("Domain words: 3 added"))
    assert f"with their counts in the 646 characters of {tmp_path}/one.txt and {tmp_path}/two.txt: " in line
    assert ": tidepools (18), " in line
    caplog.clear()
    again = extend(tokenizer, corpora, tmp_path, 3)
    assert fingerprint(again) == fingerprint(extended)
    assert f"Tokens saved: {before - after:,} of" in caplog.text, "from the cache, too"
    assert any(text.startswith("Reusing the extended tokenizer") for text in caplog.messages)


@pytest.mark.parametrize("kind", ["byte_level", "unigram"])
def test_words_are_logged_as_text(kind, tokenizers, tmp_path, caplog):
    caplog.set_level("INFO", "cloze")
    (tmp_path / "text.txt").write_text("die Größenänderung der Länge. " * 6, encoding="utf-8")
    extend(tokenizers[kind], [FileCorpus((tmp_path / "text.txt",))], tmp_path, 1)
    assert f"of {tmp_path}/text.txt: Größenänderung (6)" in caplog.text


def test_words_are_counted_at_the_beginning_of_the_text(tokenizers, corpora, tmp_path, caplog):
    caplog.set_level("INFO", "cloze")
    extended = extend(tokenizers["wordpiece"], corpora, tmp_path, 9, limit=522)
    tokens = extended.convert_ids_to_tokens(list(range(500, len(extended))))
    assert tokens == ["tidepools", "osimertinib", "remdesivir", "day"], "and not axolotl"
    assert f"in the first 528 characters of {tmp_path}/one.txt and {tmp_path}/two.txt: tidepools (18)" in caplog.text


def test_another_text_number_or_list_is_another_entry(tokenizers, corpora, tmp_path):
    tokenizer, words = tokenizers["wordpiece"], tmp_path / "words.txt"
    words.write_text("flapjack")
    variants = [
        extend(tokenizer, corpora, tmp_path, 3),
        extend(tokenizer, corpora, tmp_path, 2),
        extend(tokenizer, corpora[1:], tmp_path, 3),
        extend(tokenizer, corpora, tmp_path, 3, words),
        extend(tokenizer, corpora, tmp_path, None, words),
    ]
    assert len(set(map(fingerprint, variants))) == 5
    assert variants[3].convert_ids_to_tokens([500, 501, 502, 503])[:2] == ["flapjack", "tidepools"], "the list first"
    assert (len(variants[3]), len(variants[4])) == (504, 501)


def test_fewer_words_than_asked_for_are_reported(tokenizers, corpora, tmp_path, caplog):
    caplog.set_level("INFO", "cloze")
    extended = extend(tokenizers["wordpiece"], corpora, tmp_path, 1_000)
    assert len(extended) < 520
    assert "No other word of the text occurs 5 times and has several tokens" in caplog.messages


def test_a_text_without_such_words_is_an_error(tokenizers, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("tidepools " * 4)
    with pytest.raises(UserError, match=r"--add_vocabulary 3: no word of .*text.txt occurs 5 times and has several"):
        extend(tokenizers["wordpiece"], [FileCorpus((path,))], tmp_path, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_gives_new_words_as_the_normalizer_has_them(kind, tokenizers, tmp_path, caplog):
    caplog.set_level("INFO", "cloze")
    path = tmp_path / "words.txt"
    path.write_text("\nTidepools\n tidepools \nCOVID-19\nthe\n\nremdesivir\nTidepools\n", encoding="utf-8-sig")
    words = read_word_list(str(path), tokenizers[kind], required=True)
    expected = {
        "wordpiece": ["tidepools", "remdesivir"],
        "byte_level": ["ĠTidepools", "Ġtidepools", "Ġremdesivir"],
        "unigram": ["▁Tidepools", "▁tidepools", "▁COVID-19", "▁remdesivir"],
    }[kind]
    assert words == expected
    skipped = 3 if kind == "wordpiece" else 2
    assert f"--vocabulary_file {path}: skipped {skipped} words that are tokens already" in caplog.messages
    split = f"--vocabulary_file {path}: skipped 1 words, such as COVID-19, that the tokenizer splits"
    assert (split in caplog.text) == (kind != "unigram")


def test_listed_words_that_are_frequent_without_a_space_get_that_token_too(tokenizers, tmp_path):
    """In byte-level BPE, where a word after a bracket or at the beginning of a line is another token."""
    text, words = tmp_path / "text.txt", tmp_path / "words.txt"
    text.write_text("(tidepools) and (remdesivir) " * 5 + "(osimertinib) " * 4)
    words.write_text("tidepools\nosimertinib")
    extended = extend(tokenizers["byte_level"], [FileCorpus((text,))], tmp_path, None, words)
    assert extended.convert_ids_to_tokens(list(range(500, len(extended)))) == [
        *("Ġtidepools", "Ġosimertinib", "tidepools"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "words.txt is not a file: give a text file with one word per line"),
        (" \n\n", "words.txt is empty: give one word per line"),
        ("tidepools\n\nrock pool\n", "words.txt, line 3: 'rock pool' is more than one word: give one per line"),
        ("the\nthe\n", "words.txt has no new word: all are tokens already, or contain punctuation"),
        (b"tide\xff", "words.txt, line 1: byte 0xff is not UTF-8"),
    ],
)
def test_bad_lists_are_errors(content, message, tokenizers, tmp_path):
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_word_list(str(path), tokenizers["wordpiece"], required=True)


def test_a_list_without_new_words_is_no_error_beside_words_of_the_text(tokenizers, corpora, tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("the")
    assert len(extend(tokenizers["wordpiece"], corpora, tmp_path, 2, path)) == 502


def test_tokens_are_counted_with_each_tokenizer(tokenizers):
    texts = ["the tidepools", "remdesivir"]
    lengths = [
        sum(len(each(text, add_special_tokens=False)["input_ids"]) for text in texts) for each in tokenizers.values()
    ]
    assert measure(texts, list(tokenizers.values())) == [23, *lengths]
