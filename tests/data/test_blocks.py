"""Test that blocks and lines hold every token once and in order, for any documents."""

from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloze.data.blocks import Blocks, Lines
from cloze.tokenization.templates import Template

CLS, SEP, JOINT = 101, 102, 9
TEMPLATE = Template(prefix=(CLS,), suffix=(SEP,), separator=(JOINT,))
TEMPLATES = [TEMPLATE, Template((CLS,), (SEP,), ()), Template((), (), (JOINT,)), Template((1, 2), (3,), (8, 9))]


def join(documents):
    """Return documents as (tokens of the whole corpus, spans), the form that prepare() stores."""
    ends = np.cumsum([0, *map(len, documents)])
    tokens = np.array([token for document in documents for token in document], dtype=np.uint16)
    return tokens, np.stack([ends[:-1], ends[1:]], axis=1)


def all_of(examples):
    return [examples[number] for number in range(len(examples))]


def ids_of(examples):
    return [example["input_ids"].tolist() for example in examples]


def expected_blocks(documents, template, room):
    """Join and cut documents with plain lists."""
    joined = []
    for number, document in enumerate(documents):
        joined += (list(template.separator) if number else []) + list(document)
    blocks = [joined[i : i + room] for i in range(0, len(joined), room)]
    if blocks and not template.suffix:
        blocks[-1] = (blocks[-1] + list(template.separator))[:room]
    return blocks


def expected_lines(lines, template, room, truncate):
    """Cut lines with plain lists."""
    expected = []
    for line in lines:
        pieces = [list(line[i : i + room]) for i in range(0, len(line), room)]
        if pieces and not template.suffix:
            pieces[-1] += template.separator
        expected += pieces[:1] if truncate else pieces
    return expected


@st.composite
def corpora(draw):
    """Draw documents of distinct tokens, some not selected, with a word-start flag for each token."""
    lengths = draw(st.lists(st.integers(0, 11), min_size=1, max_size=12))
    chosen = draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    chosen[draw(st.integers(0, len(lengths) - 1))] = True
    ends = 1000 + np.cumsum([0, *lengths])
    documents = [range(start, stop) for start, stop in pairwise(ends)]
    tokens, spans = join(documents)
    used = [document for document, use in zip(documents, chosen, strict=True) if use]
    starts = np.array(draw(st.lists(st.booleans(), min_size=len(tokens), max_size=len(tokens))), dtype=bool)
    return tokens, spans[np.array(chosen)], starts, used


# Examples of the docstrings


def test_blocks_join_documents_and_cut():
    blocks = Blocks(*join([[1, 2], [3, 4, 5, 6]]), TEMPLATE, max_seq_length=5)
    examples = all_of(blocks)
    assert ids_of(examples) == [[CLS, 1, 2, JOINT, SEP], [CLS, 3, 4, 5, SEP], [CLS, 6, SEP]]
    assert blocks.lengths.tolist() == [5, 5, 3]
    assert [example["example"] for example in examples] == [0, 1, 2]
    assert all(example["input_ids"].dtype == np.int64 for example in examples)


@pytest.mark.parametrize(
    ("truncate", "expected"),
    [
        (False, [[CLS, 1, 2, SEP], [CLS, 3, 4, 5, SEP], [CLS, 6, SEP]]),
        (True, [[CLS, 1, 2, SEP], [CLS, 3, 4, 5, SEP]]),
    ],
)
def test_lines_are_split_or_cut_off(truncate, expected):
    lines = Lines(*join([[1, 2], [], [3, 4, 5, 6]]), TEMPLATE, max_seq_length=5, truncate=truncate)
    examples = all_of(lines)
    assert ids_of(examples) == expected
    assert lines.lengths.tolist() == [len(ids) for ids in expected]
    assert [example["example"] for example in examples] == list(range(len(expected)))


def test_separators_end_documents_and_lines_if_the_template_has_no_suffix():
    """A line that goes on in the next example, or is cut off, has no end."""
    text, bare = join([[1, 2], [3, 4, 5, 6]]), Template(prefix=(), suffix=(), separator=(JOINT,))
    assert ids_of(all_of(Blocks(*text, bare, 3))) == [[1, 2, JOINT], [3, 4, 5], [6, JOINT]]
    assert ids_of(all_of(Blocks(*text, bare, 4))) == [[1, 2, JOINT, 3], [4, 5, 6, JOINT]]
    # Alone in a block, the separator would be no target.
    assert ids_of(all_of(Blocks(*join([[1, 2], [3, 4, 5]]), bare, 3))) == [[1, 2, JOINT], [3, 4, 5]]
    lines = Lines(*text, bare, 4)
    assert ids_of(all_of(lines)) == [[1, 2, JOINT], [3, 4, 5], [6, JOINT]]
    assert [lines.positions(number).tolist() for number in range(3)] == [[0, 1, -1], [2, 3, 4], [5, -1]]
    assert ids_of(all_of(Lines(*text, bare, 4, truncate=True))) == [[1, 2, JOINT], [3, 4, 5]]


def test_word_starts_stand_beside_their_tokens():
    starts = np.array([1, 0, 1, 0, 0, 1], dtype=bool)
    blocks = Blocks(*join([[1, 2], [3, 4, 5, 6]]), TEMPLATE, 5, starts)
    expected = [[1, 1, 0, 1, 1], [1, 1, 0, 0, 1], [1, 1, 1]]
    assert [example["word_starts"].astype(int).tolist() for example in all_of(blocks)] == expected
    assert blocks[0]["word_starts"].dtype == bool


# Properties for any documents


@given(corpora(), st.sampled_from(TEMPLATES), st.integers(1, 7))
@settings(max_examples=150, deadline=None)
def test_blocks_hold_every_token_once(corpus, template, room):
    """transformers#12438: no token is dropped between blocks, and every block has its special tokens."""
    tokens, spans, starts, documents = corpus
    expected = expected_blocks(documents, template, room)
    blocks = Blocks(tokens, spans, template, room + len(template.prefix + template.suffix), starts)
    examples = all_of(blocks)
    assert ids_of(examples) == [[*template.prefix, *text, *template.suffix] for text in expected]
    assert all(len(text) == room for text in expected[:-1])
    assert blocks.lengths.tolist() == [len(example["input_ids"]) for example in examples]
    assert len(blocks) == len(examples)
    check_word_starts(examples, tokens, starts)


@given(corpora(), st.sampled_from(TEMPLATES), st.integers(1, 7), st.booleans())
@settings(max_examples=150, deadline=None)
def test_lines_hold_every_token_once(corpus, template, room, truncate):
    """transformers#12438, line by line: long lines are split, and cut off only on request."""
    tokens, spans, starts, documents = corpus
    ends = template.suffix or template.separator
    lines = Lines(tokens, spans, template, room + len(template.prefix + ends), starts, truncate)
    expected = expected_lines(documents, template, room, truncate)
    examples = all_of(lines)
    assert ids_of(examples) == [[*template.prefix, *text, *template.suffix] for text in expected]
    assert lines.lengths.tolist() == [len(example["input_ids"]) for example in examples]
    check_word_starts(examples, tokens, starts)


def check_word_starts(examples, tokens, starts):
    """Each text token keeps its flag, and each special token starts a word."""
    flags = dict(zip(tokens.tolist(), starts.tolist(), strict=True))
    for example in examples:
        assert example["word_starts"].tolist() == [flags.get(token, True) for token in example["input_ids"].tolist()]


@pytest.mark.parametrize("spans", [np.empty((0, 2), int), np.array([[0, 0]])], ids=["no document", "an empty one"])
@pytest.mark.parametrize("cut", [Blocks, Lines])
def test_empty_text_gives_no_examples(cut, spans):
    """For example, the tokenizer finds no token in any held-out document."""
    examples = cut(np.array([5, 6]), spans, TEMPLATE, 5)
    assert len(examples) == 0
    assert examples.lengths.tolist() == []


@pytest.mark.parametrize("cut", [Blocks, Lines])
def test_example_number_out_of_range_is_an_error(cut):
    """Without the error, a loop over the sequence never ends."""
    examples = cut(*join([[1, 2], [3, 4, 5]]), TEMPLATE, 5)
    with pytest.raises(IndexError):
        examples[len(examples)]


@pytest.mark.parametrize("count", [999, 1000, 1001, 2500])
def test_blocks_drop_no_remainder_every_thousand_documents(count):
    """transformers#12438: upstream loses the remainder of each 1,000 texts, and all of a small corpus."""
    tokens, spans = join([[7, 8, 9]] * count)
    blocks = Blocks(tokens, spans, TEMPLATE, 130)
    examples = ids_of(all_of(blocks))
    assert len(blocks) == -(-(4 * count - 1) // 128)
    assert list(chain.from_iterable(ids[1:-1] for ids in examples)) == ([7, 8, 9, JOINT] * count)[:-1]
    assert all(ids[0] == CLS and ids[-1] == SEP for ids in examples)
