"""Test pairs for next sentence prediction: labels, random documents, no wasted text, and length limits."""

from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloze.data.pairs import Pairs, PairSettings, Sentences, draw_neighbours, draw_pairs, draw_segments, fit
from cloze.tokenization.templates import PairTemplate, pair_template_of

CLS, SEP = 101, 102
TEMPLATE = PairTemplate(prefix=(CLS,), middle=(SEP,), suffix=(SEP,))
TEMPLATES = [TEMPLATE, PairTemplate((0,), (2, 2), (2,)), PairTemplate((), (9,), ()), PairTemplate((1, 2), (3,), (4, 5))]

DRAW = {"segment": draw_segments, "sentence": draw_neighbours}
STRATEGIES = pytest.mark.parametrize("strategy", ["segment", "sentence"])


def rng(*seed):
    return np.random.default_rng(seed)


class Text:
    """Documents given by the lengths of their sentences, over tokens that are all different.

    ``tokens`` and ``sentences`` are what cloze.pairs takes. For comparison, with plain lists: ``lengths`` of the
    sentences that are not empty, ``document_of`` each of them, ``stop``, where the document of each ends, and
    ``texts``, the tokens of each.
    """

    def __init__(self, documents, chosen=None):
        chosen = [True] * len(documents) if chosen is None else chosen
        spans, counts, total = [], [], 0
        self.lengths, self.document_of, self.stop, self.texts = [], [], [], []
        number = 0
        for document, use in zip(documents, chosen, strict=True):
            counts += [len(document)] * use
            filled = 0
            for length in document:
                if use:
                    spans.append((total, total + length))
                if use and length:
                    self.lengths.append(length)
                    self.texts.append(list(range(1000 + total, 1000 + total + length)))
                    filled += 1
                total += length
            self.document_of += [number] * filled
            self.stop += [len(self.lengths)] * filled
            number += filled > 0
        self.num_documents = number
        self.tokens = np.arange(1000, 1000 + total, dtype=np.uint32)
        self.sentences = Sentences.of(np.array(spans, dtype=np.int64).reshape(-1, 2), np.array(counts, dtype=np.int64))

    def size(self, begin, end):
        return sum(self.lengths[begin:end])

    def joined(self, begin, end):
        return list(chain.from_iterable(self.texts[begin:end]))

    def alone(self, sentence):
        return self.document_of.count(self.document_of[sentence]) == 1


@st.composite
def corpora(draw, at_least=2):
    """Draw up to eight documents, some not selected, with sentences from empty to longer than any limit drawn here."""
    documents = draw(st.lists(st.lists(st.integers(0, 15), min_size=1, max_size=7), min_size=at_least, max_size=8))
    chosen = draw(st.lists(st.booleans(), min_size=len(documents), max_size=len(documents)))
    for number in range(at_least):
        chosen[number] = True
        documents[number][0] += 1
    return Text(documents, chosen)


@st.composite
def pair_settings(draw, **fixed):
    drawn = {
        "max_tokens": draw(st.integers(2, 13)),
        "random_probability": draw(st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0])),
        "short_probability": draw(st.sampled_from([0.0, 0.3, 1.0])),
    }
    return PairSettings(**drawn | fixed)


SEEDS = st.integers(0, 10_000)


def drawn(text, pairing, seed):
    """Return each run, as a list, with its label."""
    runs, labels = DRAW[pairing.strategy](text.sentences, pairing, rng(seed))
    return [(*run, label) for run, label in zip(runs.tolist(), labels.tolist(), strict=True)]


def assert_share(count, total, share):
    """Assert that ``count`` of ``total`` fits ``share`` within four standard deviations."""
    assert abs(count - share * total) <= 4 * np.sqrt(total * share * (1 - share)), (count, total, share)


def assert_uniform(values, expected):
    """Assert that only the expected values occur, all about equally often."""
    found, counts = np.unique(values, return_counts=True)
    assert found.tolist() == list(expected)
    for count in counts:
        assert_share(count, len(values), 1 / len(found))


# The template


def test_pair_example_joins_two_texts():
    example = TEMPLATE.example(np.array([5, 6, 7]), np.array([8, 9]), np.int8(1), np.int64(3))
    assert example["input_ids"].tolist() == [CLS, 5, 6, 7, SEP, 8, 9, SEP]
    assert example["token_type_ids"].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert (example["next_sentence_label"], example["example"]) == (1, 3)
    assert {type(example["next_sentence_label"]), type(example["example"])} == {int}
    assert example["input_ids"].dtype == example["token_type_ids"].dtype == np.int64
    assert set(example) == {"input_ids", "token_type_ids", "next_sentence_label", "example"}


@pytest.mark.parametrize(
    ("template", "ids", "types"),
    [
        (PairTemplate((0,), (2, 2), (2,)), [0, 5, 2, 2, 8, 9, 2], [0, 0, 0, 0, 1, 1, 1]),
        (PairTemplate((1, 2), (), (4, 6)), [1, 2, 5, 8, 9, 4, 6], [0, 0, 0, 1, 1, 1, 1]),
        (PairTemplate((), (3,), ()), [5, 3, 8, 9], [0, 0, 1, 1]),
    ],
)
def test_pair_example_uses_the_tokenizers_special_tokens(template, ids, types):
    example = template.example(np.array([5], np.uint16), np.array([8, 9], np.uint16), 0, 0)
    assert example["input_ids"].tolist() == ids
    assert example["input_ids"].dtype == np.int64
    assert example["token_type_ids"].tolist() == types
    assert template.num_special == len(ids) - 3


def test_special_tokens_start_words():
    starts = PairTemplate((1, 2), (3,), (4,)).word_starts(np.array([True, False]), np.array([False, False, True]))
    assert starts.astype(int).tolist() == [1, 1, 1, 0, 1, 0, 0, 1, 1]
    assert starts.dtype == bool


@pytest.mark.parametrize("kind", ["wordpiece", "byte_level", "unigram"])
def test_pair_example_equals_the_tokenizer_output(kind, tokenizers, texts):
    tokenizer = tokenizers[kind]
    template = pair_template_of(tokenizer)
    assert template.num_special == {"wordpiece": 3, "byte_level": 4, "unigram": 3}[kind]
    for first, second in [("a", "a"), ("a a a", "a"), *pairwise(texts[:12])]:
        a, b = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (first, second))
        expected = tokenizer(first, second)
        example = template.example(np.array(a, np.uint16), np.array(b, np.uint16), 0, 0)
        assert example["input_ids"].tolist() == expected["input_ids"]
        if kind == "wordpiece":
            assert example["token_type_ids"].tolist() == expected["token_type_ids"]


# The sentences


def test_empty_sentences_and_documents_are_left_out():
    """Documents of tokens 10-15, 15-15, none, 20-24 and 30-30: two have text."""
    spans = np.array([[10, 12], [12, 12], [12, 15], [15, 15], [20, 20], [20, 24], [30, 30], [30, 30]])
    sentences = Sentences.of(spans, np.array([3, 1, 0, 2, 2]))
    assert sentences.begins.tolist() == [10, 12, 20]
    assert sentences.offsets.tolist() == [0, 2, 5, 9]
    assert sentences.documents.tolist() == [0, 2, 3]
    assert (len(sentences), sentences.num_documents) == (3, 2)


@STRATEGIES
@pytest.mark.parametrize("swap", [False, True])
def test_no_sentences_give_no_pairs(strategy, swap):
    """For example, no document is held out, or the tokenizer finds no token in the held-out documents."""
    for text in (Text([[0], [0, 0]]), Text([])):
        assert (len(text.sentences), text.sentences.num_documents) == (0, 0)
        if swap:
            pairing = PairSettings(max_tokens=5, strategy=strategy, swap=True)
            pairs = draw_pairs(text.tokens, text.sentences, TEMPLATE, pairing, rng(0))
            assert len(pairs) == 0
            assert pairs.lengths.tolist() == []


# Cutting


@pytest.mark.parametrize(
    ("lengths", "room", "expected"),
    [
        ((10, 3), 9, (6, 3)),
        ((3, 10), 9, (3, 6)),
        ((10, 10), 9, (5, 4)),
        ((10, 10), 8, (4, 4)),
        ((5, 4), 9, (5, 4)),
        ((4, 6), 9, (4, 5)),
        ((7, 5), 9, (5, 4)),
        ((2, 1), 9, (2, 1)),
        ((100, 1), 2, (1, 1)),
        ((1, 100), 2, (1, 1)),
    ],
)
def test_truncation_cuts_the_longer_text(lengths, room, expected):
    assert fit(np.array([lengths]), room).tolist() == [list(expected)]


def truncate_token_by_token(a, b, room):
    """Same result as truncate_seq_pair of google-research/bert."""
    while a + b > room:
        if a > b:
            a -= 1
        else:
            b -= 1
    return [a, b]


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1), st.integers(2, 50))
@settings(max_examples=100, deadline=None)
def test_truncation_equals_berts(lengths, room):
    kept = fit(np.array(lengths), room)
    assert kept.tolist() == [truncate_token_by_token(a, b, room) for a, b in lengths]


@STRATEGIES
def test_truncation_cuts_both_ends_equally_often(strategy):
    """Each lost token has equal probability: of 90, 45 on average at the front, with a standard deviation of 4.7."""
    text = Text([[100] * 60 for _ in range(40)])
    pairing = PairSettings(max_tokens=20, strategy=strategy)
    pairs = draw_pairs(text.tokens, text.sentences, TEMPLATE, pairing, rng(7))
    assert pairs.lengths.tolist() == [23] * len(pairs)
    # A and B are one sentence each, except at the ends of documents; sentences begin at multiples of 100.
    a, b = (pairs.spans[pairs.cut == 180][:, [0, 2]] % 100).T
    assert len(a) > 1_500
    for front in (a, b):
        assert_share(front.sum(), 90 * len(front), 0.5)
        assert 4.4 < front.std() < 5.1
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.1


def test_truncation_by_one_drops_the_first_or_the_last_token():
    text = Text([[3, 3], [3, 3]])
    pairing = PairSettings(max_tokens=5, strategy="sentence", random_probability=0.0)
    kept = set()
    for seed in range(40):
        pairs = draw_pairs(text.tokens, text.sentences, TEMPLATE, pairing, rng(seed))
        kept.add(tuple(pairs[0]["input_ids"].tolist()))
        assert pairs.cut.tolist() == [1, 1]
    assert kept == {
        (CLS, 1000, 1001, 1002, SEP, 1003, 1004, SEP),
        (CLS, 1000, 1001, 1002, SEP, 1004, 1005, SEP),
    }


# Runs of sentences, before they are cut


@given(corpora(), pair_settings(strategy="segment"), SEEDS)
@settings(max_examples=100, deadline=None)
def test_segments_use_every_sentence_once(text, pairing, seed):
    """google-research/bert#125: 0 is for a B that follows A, a random one is of another document; nothing is left
    out."""
    used = []
    for a, a_end, b, b_end, label in drawn(text, pairing, seed):
        assert a < a_end <= text.stop[a]
        assert b < b_end <= text.stop[b]
        used += range(a, a_end)
        if label == 0:
            assert b == a_end
            assert text.document_of[b] == text.document_of[a]
            used += range(b, b_end)
        else:
            assert label == 1
            assert text.document_of[b] != text.document_of[a]
    # In order: the sentences that a random B replaced come next.
    assert used == list(range(len(text.lengths)))


@given(corpora(at_least=1), pair_settings(strategy="segment", swap=True), SEEDS)
@settings(max_examples=100, deadline=None)
def test_sentence_order_segments_use_every_sentence_with_a_neighbour(text, pairing, seed):
    used = []
    for a, a_end, b, b_end, label in drawn(text, pairing, seed):
        assert a < a_end == b < b_end <= text.stop[a]
        assert label in (0, 1)
        used += range(a, b_end)
    assert used == [sentence for sentence in range(len(text.lengths)) if not text.alone(sentence)]


@given(corpora(), pair_settings(strategy="segment", short_probability=0.0), st.booleans(), SEEDS)
@settings(max_examples=100, deadline=None)
def test_segments_fill_max_seq_length_and_no_more(text, pairing, swap, seed):
    """Sentences are added up to the limit; a run never leaves the last sentence of a document alone."""
    pairing = PairSettings(pairing.max_tokens, "segment", swap, pairing.random_probability, 0.0)
    for a, a_end, b, b_end, label in drawn(text, pairing, seed):
        stop = text.stop[a]
        if label == 0 or swap:
            assert stop - b_end != 1
            if text.size(a, b_end) < pairing.max_tokens:
                # All sentences, or all except the two sentences that the next pair needs.
                assert stop - b_end in (0, 2)
                assert stop - b_end == 0 or text.size(a, b_end + 1) >= pairing.max_tokens
            elif b_end - a > 2:
                joined = b_end == stop and b_end - a == 3
                assert joined or text.size(a, b_end - 1) < pairing.max_tokens
        else:
            rest = pairing.max_tokens - text.size(a, a_end)
            assert text.size(b, b_end) >= rest or b_end == text.stop[b]
            assert b_end - b == 1 or text.size(b, b_end - 1) < rest
            # A random B replaces at least one sentence of the full run, unless the run had none left.
            shared_room = text.size(a, a_end) < pairing.max_tokens
            assert a_end - a == 1 or shared_room or (a_end - a == 2 and stop - a == 3)
            assert a_end < stop or a_end - a == 1


def test_random_b_puts_back_the_displaced_sentences():
    """With a limit of two sentences, a run is sentences 0 and 1, cut between them."""
    text = Text([[1, 1], [1]])
    always = PairSettings(max_tokens=2, random_probability=1.0, short_probability=0.0)
    assert drawn(text, always, 0)[:2] == [(0, 1, 2, 3, 1), (1, 2, 2, 3, 1)]
    never = PairSettings(max_tokens=2, random_probability=0.0, short_probability=0.0)
    assert drawn(text, never, 0)[:1] == [(0, 1, 1, 2, 0)]


def test_segments_continue_after_the_sentences_used():
    """At the end of A after a random B, at the end of B after one that follows: eight sentences make four pairs."""
    text = Text([[1] * 8, [1] * 8])
    never = PairSettings(max_tokens=2, random_probability=0.0, short_probability=0.0)
    assert drawn(text, never, 0)[:4] == [(0, 1, 1, 2, 0), (2, 3, 3, 4, 0), (4, 5, 5, 6, 0), (6, 7, 7, 8, 0)]
    always = PairSettings(max_tokens=2, random_probability=1.0, short_probability=0.0)
    pairs = drawn(text, always, 0)
    assert [pair[:2] for pair in pairs[:5]] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    text = Text([[2] * 3_000] * 2)
    after = set()
    for (_, a_end, _, b_end, label), (begin, *_) in pairwise(drawn(text, PairSettings(max_tokens=12), 3)):
        after.add(label)
        if a_end < text.stop[0]:
            assert begin == (b_end if label == 0 else a_end)
    assert after == {0, 1}


def test_last_sentence_gets_a_neighbour_or_joins_the_segment_before():
    """With a limit of two, three sentences are one run; with a limit of four, five are runs of three and two."""
    never = PairSettings(max_tokens=2, swap=True, random_probability=0.0, short_probability=0.0)
    cuts = {tuple(drawn(Text([[1, 1, 1]]), never, seed)) for seed in range(30)}
    assert cuts == {((0, 1, 1, 3, 0),), ((0, 2, 2, 3, 0),)}
    never = PairSettings(max_tokens=4, swap=True, random_probability=0.0, short_probability=0.0)
    for seed in range(30):
        (a, _, _, middle, _), (begin, *_, end, _) = drawn(Text([[1] * 5]), never, seed)
        assert (a, middle, begin, end) == (0, 3, 3, 5)


@given(corpora(), pair_settings(strategy="sentence"), SEEDS)
@settings(max_examples=100, deadline=None)
def test_sentence_pairs_start_at_every_sentence_with_a_next(text, pairing, seed):
    """Sentences alone in their document can only get a random B. See google-research/bert#125."""
    first = []
    for a, a_end, b, b_end, label in drawn(text, pairing, seed):
        assert (a_end, b_end) == (a + 1, b + 1)
        first.append(a)
        if label == 0:
            assert b == a + 1
            assert text.document_of[b] == text.document_of[a]
        else:
            assert label == 1
            assert text.document_of[b] != text.document_of[a]
    expected = [n for n in range(len(text.lengths)) if n + 1 < text.stop[n] or text.alone(n)]
    assert first == expected


@given(corpora(at_least=1), pair_settings(strategy="sentence", swap=True), SEEDS)
@settings(max_examples=60, deadline=None)
def test_sentence_order_pairs_use_all_neighbours(text, pairing, seed):
    pairs = drawn(text, pairing, seed)
    followed = [n for n in range(len(text.lengths)) if n + 1 < text.stop[n]]
    assert [pair[:4] for pair in pairs] == [(n, n + 1, n + 1, n + 2) for n in followed]
    assert {pair[4] for pair in pairs} <= {0, 1}


# Pairs of tokens


@given(
    corpora(),
    pair_settings(),
    st.sampled_from(["segment", "sentence"]),
    st.booleans(),
    st.sampled_from(TEMPLATES),
    SEEDS,
)
@settings(max_examples=100, deadline=None)
def test_pairs_are_slices_of_their_segments(text, pairing, strategy, swap, template, seed):
    """transformers#12188: the label matches B, and the pair fits together with its special tokens, counted once."""
    pairing = PairSettings(pairing.max_tokens, strategy, swap, pairing.random_probability, pairing.short_probability)
    max_seq_length = pairing.max_tokens + len(template.prefix + template.middle + template.suffix)
    starts = rng(seed, 1).random(len(text.tokens)) < 0.5
    pairs = draw_pairs(text.tokens, text.sentences, template, pairing, rng(seed), starts)
    runs = drawn(text, pairing, seed)
    assert len(pairs) == len(runs)
    assert pairs.lengths.tolist() == [len(pairs[number]["input_ids"]) for number in range(len(pairs))]
    for number, (first, first_end, second, second_end, label) in enumerate(runs):
        example = pairs[number]
        assert (example["next_sentence_label"], example["example"]) == (label, number)
        whole_a, whole_b = text.joined(first, first_end), text.joined(second, second_end)
        if swap and label == 1:
            whole_a, whole_b = whole_b, whole_a
        size_a, size_b = truncate_token_by_token(len(whole_a), len(whole_b), pairing.max_tokens)
        assert size_a > 0
        assert size_b > 0
        ids = example["input_ids"].tolist()
        begin_a = len(template.prefix)
        begin_b = begin_a + size_a + len(template.middle)
        a, b = ids[begin_a : begin_a + size_a], ids[begin_b : begin_b + size_b]
        assert ids == [*template.prefix, *a, *template.middle, *b, *template.suffix]
        assert example["token_type_ids"].tolist() == [0] * begin_b + [1] * (len(ids) - begin_b)
        assert is_inside(a, whole_a)
        assert is_inside(b, whole_b)
        lost = len(whole_a) - size_a + len(whole_b) - size_b
        assert pairs.cut[number] == lost
        assert len(ids) == max_seq_length if lost else len(ids) <= max_seq_length
        special = [True] * max_seq_length
        flags = [starts[token - 1000] for token in a], [starts[token - 1000] for token in b]
        middle, suffix = special[: len(template.middle)], special[: len(template.suffix)]
        assert example["word_starts"].tolist() == [*special[:begin_a], *flags[0], *middle, *flags[1], *suffix]


def is_inside(part, whole):
    """All tokens are distinct, so the part has one possible position."""
    begin = whole.index(part[0])
    return whole[begin : begin + len(part)] == part


def test_swapped_pair_exchanges_a_and_b():
    """With two sentences, A is the first with label 0, or the second with label 1."""
    text = Text([[2, 3], [4]])
    for strategy in ("segment", "sentence"):
        for probability, ids in (
            (0.0, [1000, 1001, SEP, 1002, 1003, 1004]),
            (1.0, [1002, 1003, 1004, SEP, 1000, 1001]),
        ):
            pairing = PairSettings(max_tokens=9, strategy=strategy, swap=True, random_probability=probability)
            pairs = draw_pairs(text.tokens, text.sentences, TEMPLATE, pairing, rng(0))
            assert [pair["input_ids"].tolist() for pair in pairs] == [[CLS, *ids, SEP]]
            assert pairs.labels.tolist() == [probability]


def test_next_pair_has_label_0_and_random_pair_1():
    """google-research/bert#125: label 0 is the next sentence, label 1 a sentence of the other document."""
    text = Text([[2, 3], [4]])
    for strategy in ("segment", "sentence"):
        for probability, b in ((0.0, [1002, 1003, 1004]), (1.0, [1005, 1006, 1007, 1008])):
            pairing = PairSettings(
                max_tokens=9, strategy=strategy, random_probability=probability, short_probability=0.0
            )
            first = draw_pairs(text.tokens, text.sentences, TEMPLATE, pairing, rng(0))[0]
            assert first["input_ids"].tolist() == [CLS, 1000, 1001, SEP, *b, SEP]
            assert first["token_type_ids"].tolist() == [0, 0, 0, 0, *[1] * len(b), 1]
            assert first["next_sentence_label"] == probability
            assert "word_starts" not in first


@STRATEGIES
def test_random_b_never_comes_from_the_document_of_a(strategy):
    """NVIDIA/DeepLearningExamples#421: with two documents, the other document is the only choice."""
    text = Text([[1] * 300, [1] * 200])
    for seed in range(5):
        pairing = PairSettings(max_tokens=4, strategy=strategy, random_probability=1.0)
        pairs = drawn(text, pairing, seed)
        assert len(pairs) > 200
        assert all(text.document_of[a] != text.document_of[b] for a, _, b, _, _ in pairs)
        assert {label for *_, label in pairs} == {1}


# Probabilities, over 10,000 pairs and more, with fixed seeds


def long_documents():
    lengths = rng(11).integers(1, 10, size=(40, 800))
    return Text(lengths.tolist())


def short_documents():
    """Documents have one, two, three or twenty sentences."""
    random = rng(12)
    counts = random.choice([1, 2, 3, 20], p=[0.3, 0.25, 0.1, 0.35], size=4_000)
    return Text([random.integers(1, 10, size=count).tolist() for count in counts])


@pytest.fixture(scope="module")
def large():
    return {"long": long_documents(), "short": short_documents()}


@STRATEGIES
@pytest.mark.parametrize("documents", ["long", "short"])
@pytest.mark.parametrize("probability", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("swap", [False, True])
def test_random_b_share_matches_the_setting(large, strategy, documents, probability, swap):
    """If many pairs have to be random because nothing follows A, other pairs become IsNext."""
    text = large[documents]
    pairing = PairSettings(max_tokens=12, strategy=strategy, swap=swap, random_probability=probability)
    _, labels = DRAW[strategy](text.sentences, pairing, rng(1))
    assert len(labels) >= 10_000
    assert_share(labels.sum(), len(labels), probability)
    # Throughout the text, not only at the end.
    for part in np.array_split(labels, 4):
        assert_share(part.sum(), len(part), probability)


def test_random_b_share_is_as_close_as_documents_allow():
    """Three of four documents have one sentence each: only the fourth can give an IsNext pair."""
    text = Text([[1], [1], [1], [1, 1]] * 500)
    for strategy in ("segment", "sentence"):
        pairs = drawn(text, PairSettings(max_tokens=12, strategy=strategy, random_probability=0.2), 0)
        assert len(pairs) == 2_000
        assert [label for *_, label in pairs] == [1, 1, 1, 0] * 500


@STRATEGIES
def test_random_b_is_drawn_by_document_not_by_sentence(strategy):
    """Documents of 1, 2, 5, 50 and 20,000 sentences are equally likely, and so are the sentences in each."""
    counts = [20_000, 1, 2, 5, 50]
    text = Text([[1] * count for count in counts])
    pairing = PairSettings(max_tokens=2, strategy=strategy, random_probability=0.8)
    runs, labels = DRAW[strategy](text.sentences, pairing, rng(2))
    begins = runs[(labels == 1) & (runs[:, 0] < 20_000), 2]
    assert len(begins) >= 10_000
    assert_uniform(np.array(text.document_of)[begins], [1, 2, 3, 4])
    offset = 20_000
    for count in counts[1:]:
        within = begins[(begins >= offset) & (begins < offset + count)] - offset
        assert_uniform(within, range(count))
        offset += count


@STRATEGIES
def test_random_b_comes_from_each_other_document_equally_often(strategy):
    """The document of A may be the first, one in the middle or the last."""
    text = Text([[1] * 4_000] * 5)
    pairing = PairSettings(max_tokens=3, strategy=strategy, random_probability=0.8)
    runs, labels = DRAW[strategy](text.sentences, pairing, rng(3))
    documents = runs[labels == 1][:, [0, 2]] // 4_000
    for document in range(5):
        others = [other for other in range(5) if other != document]
        assert_uniform(documents[documents[:, 0] == document, 1], others)


@pytest.mark.parametrize("swap", [False, True])
def test_segment_is_split_at_any_sentence(swap):
    """Eight sentences fill the limit: A has one to seven of them."""
    text = Text([[1] * 20_000] * 2)
    pairing = PairSettings(max_tokens=8, swap=swap, short_probability=0.0)
    runs, labels = draw_segments(text.sentences, pairing, rng(4))
    full = runs[:, 0] % 20_000 < 19_980
    assert full.sum() >= 4_000
    for label in (0, 1):
        chosen = runs[full & (labels == label)]
        assert_uniform(chosen[:, 1] - chosen[:, 0], range(1, 8))


@pytest.mark.parametrize("swap", [False, True])
def test_short_segments_have_any_length(swap):
    """With every run short, pairs have 2 to 11 tokens, all as likely; with one in ten short, nine and a bit are full.

    The end of a document is left out: there, runs are as long as they can be."""
    text = Text([[1] * 25_000] * 2)

    def lengths(probability):
        pairing = PairSettings(max_tokens=11, swap=swap, short_probability=probability)
        runs, labels = draw_segments(text.sentences, pairing, rng(5))
        inside = (runs[:, [0, 2]] % 25_000 < 24_970).all(1)
        sums = runs[:, 1] - runs[:, 0] + runs[:, 3] - runs[:, 2]
        return sums[inside], labels[inside]

    sums, labels = lengths(1.0)
    for label in (0, 1):
        assert_uniform(sums[labels == label], range(2, 12))
    sums, labels = lengths(0.0)
    assert sums.tolist() == [11] * len(sums)
    sums, labels = lengths(0.1)
    assert len(sums) >= 4_000
    assert_share((sums == 11).sum(), len(sums), 0.91)


# Reproducible, and new in each epoch


@STRATEGIES
@pytest.mark.parametrize("swap", [False, True])
def test_pairs_depend_on_the_seed_alone(strategy, swap):
    text = Text([[3, 4, 5, 6] * 10] * 5)
    pairing = PairSettings(max_tokens=9, strategy=strategy, swap=swap)

    def pairs(*seed):
        return draw_pairs(text.tokens, text.sentences, TEMPLATE, pairing, rng(*seed))

    first, again, next_epoch = pairs(42, 0), pairs(42, 0), pairs(42, 1)
    assert first.spans.tolist() == again.spans.tolist()
    assert first.labels.tolist() == again.labels.tolist()
    assert first.labels.tolist() != next_epoch.labels.tolist()
    assert first.spans.tolist() != next_epoch.spans.tolist()


def test_pair_building_leaves_sentences_unchanged():
    """They are used again for the next epoch."""
    text = Text([[3, 4, 5, 6] * 10] * 5)
    before = [array.copy() for array in (text.sentences.begins, text.sentences.offsets, text.sentences.documents)]
    for strategy in ("segment", "sentence"):
        for swap in (False, True):
            pairing = PairSettings(max_tokens=9, strategy=strategy, swap=swap)
            draw_pairs(text.tokens, text.sentences, TEMPLATE, pairing, rng(0))
    after = [text.sentences.begins, text.sentences.offsets, text.sentences.documents]
    assert all(np.array_equal(old, new) for old, new in zip(before, after, strict=True))


# Memory and disk


@STRATEGIES
def test_pair_positions_and_labels_are_arrays(strategy):
    """Python objects would be copied by worker processes on access, because of their reference counts."""
    text = Text([[3, 4, 5, 6] * 10] * 5)
    pairs = draw_pairs(text.tokens, text.sentences, TEMPLATE, PairSettings(max_tokens=9, strategy=strategy), rng(0))
    assert (pairs.spans.dtype, pairs.spans.shape) == (np.int64, (len(pairs), 4))
    assert (pairs.labels.dtype, pairs.labels.shape) == (np.int8, (len(pairs),))
    assert (pairs.cut.dtype, pairs.cut.shape) == (np.int64, (len(pairs),))
    assert pairs.lengths.dtype == np.int64


def test_pairs_are_read_from_a_token_file(tmp_path):
    """16-bit ids become 64-bit ids with equal values, and the example owns them."""
    tokens = np.array([7, 65535, 8, 9, 10, 65534], np.uint16)
    tokens.tofile(tmp_path / "tokens")
    words = np.array([1, 0, 1, 1, 0, 1], bool)
    words.tofile(tmp_path / "words")
    pairs = Pairs(
        np.memmap(tmp_path / "tokens", np.uint16, mode="r"),
        spans=np.array([[0, 2, 2, 3], [3, 4, 4, 6]]),
        labels=np.array([0, 1], np.int8),
        template=TEMPLATE,
        cut=np.array([0, 0]),
        word_starts=np.memmap(tmp_path / "words", bool, mode="r"),
    )
    first, second = pairs[0], pairs[1]
    assert first["input_ids"].tolist() == [CLS, 7, 65535, SEP, 8, SEP]
    assert second["input_ids"].tolist() == [CLS, 9, SEP, 10, 65534, SEP]
    assert first["word_starts"].astype(int).tolist() == [1, 1, 0, 1, 1, 1]
    assert second["word_starts"].astype(int).tolist() == [1, 1, 1, 0, 1, 1]
    assert [pair["next_sentence_label"] for pair in (first, second)] == [0, 1]
    assert [pair["example"] for pair in (first, second)] == [0, 1]
    assert pairs.lengths.tolist() == [6, 6]
    for pair in (first, second):
        assert pair["input_ids"].dtype == pair["token_type_ids"].dtype == np.int64
        assert not isinstance(pair["input_ids"], np.memmap)
        pair["input_ids"][:] = 0
    assert pairs[0]["input_ids"].tolist() == [CLS, 7, 65535, SEP, 8, SEP]


def test_pair_number_out_of_range_is_an_error():
    """Without the error, a loop over the sequence never ends."""
    text = Text([[3, 4], [5, 6]])
    pairs = draw_pairs(text.tokens, text.sentences, TEMPLATE, PairSettings(max_tokens=9), rng(0))
    with pytest.raises(IndexError):
        pairs[len(pairs)]
