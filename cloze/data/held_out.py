"""Add to the examples of evaluations what their measures need: the document of each token, and its word."""

from typing import Any, Protocol

import numpy as np

from cloze.data.samplers import Examples
from cloze.tokenization.token_cache import TokenizedCorpus

# Words of a unit that have their own numbers.
MAX_WORDS = 2**32
# Constants of SplitMix64 (Steele et al., 2014), a generator whose n-th number is a hash of n.
GAMMA = np.uint64(0x9E3779B97F4A7C15)
MULTIPLIERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


class LocatedExamples(Examples, Protocol):
    """Hold examples whose tokens have a position in a corpus."""

    def positions(self, number: int) -> np.ndarray:
        """Return the position of each token of an example in the corpus, -1 for special tokens, int64 [length]."""


class WordNumbers:
    """Number the words of a corpus, the same for all tokenizers that split the text into the same words.

    A word's number consists of the number of its unit, such as a document, and its rank in the unit. It depends neither
    on the tokens of the words nor on the examples. White space alone is not a word: whether it has tokens of its own
    depends on the tokenizer.

    Args:
        corpus: with word starts.
        characters: of each token (tokenization.characters), [vocabulary].
    """

    def __init__(self, corpus: TokenizedCorpus, characters: np.ndarray):
        assert corpus.word_starts is not None
        self.corpus, self.characters, self.word_starts = corpus, characters, corpus.word_starts
        self.unit, self.ranks = -1, np.zeros(0, np.int64)

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Return the number of the word at each position, -1 for white space, int64 [positions]."""
        units = unit_at(self.corpus.units, positions)
        numbers = np.empty_like(positions)
        for unit in np.unique(units).tolist():
            here = units == unit
            ranks = self._ranks_in(unit)[positions[here] - self.corpus.units[unit]]
            numbers[here] = np.where(ranks < 0, -1, unit * MAX_WORDS + ranks)
        return numbers

    def _ranks_in(self, unit: int) -> np.ndarray:
        """Return the rank of the word of each token of a unit, -1 for white space, int64 [tokens]."""
        if unit != self.unit:
            # Kept, because a long document has many examples.
            span = slice(*self.corpus.units[unit : unit + 2])
            words = np.cumsum(self.word_starts[span]) - 1
            is_word = np.bincount(words, self.characters[self.corpus.tokens[span]]) > 0
            self.unit, self.ranks = unit, np.where(is_word, np.cumsum(is_word) - 1, -1)[words]
        return self.ranks


class HeldOutExamples:
    """Add the documents, and the words if they are numbered, to the examples of an evaluation.

    ``"documents"``, int64 [parts], are the documents of an example, and ``"document_ends"``, int64 [parts], where their
    tokens end in it. ``"words"``, int64 [length], are the numbers of the tokens' words, -1 for special tokens and white
    space.

    Args:
        examples: of the corpus.
        corpus: the tokenized corpus.
        words: numbers its words; None leaves them out.
    """

    def __init__(self, examples: LocatedExamples, corpus: TokenizedCorpus, words: WordNumbers | None = None):
        self.examples, self.corpus, self.words = examples, corpus, words

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def lengths(self) -> np.ndarray:
        """Return the number of tokens in each example, including special tokens, [examples]."""
        return self.examples.lengths

    def __getitem__(self, number: int) -> dict[str, Any]:
        example, positions = self.examples[number], self.examples.positions(number)
        places = np.flatnonzero(positions >= 0)
        positions = positions[places]
        documents = unit_at(self.corpus.documents, unit_at(self.corpus.units, positions))
        if "next_sentence_label" in example:
            # A pair has one label, so all of it belongs to one document, that of its first text.
            documents[:] = documents[0]
        last = np.diff(documents, append=-1) != 0
        example |= {"documents": documents[last], "document_ends": places[last] + 1}
        if self.words is not None:
            words = np.full(len(example["input_ids"]), -1)
            words[places] = self.words.at(positions)
            example["words"] = words
        return example


def unit_at(begins: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return the number of the item that contains each position, given the begins of adjacent items, [positions].

    Of items with the same begin, all but the last are empty.
    """
    return np.searchsorted(begins, positions, side="right") - 1


def draws_of(words: np.ndarray) -> np.ndarray:
    """Return two independent uniform numbers in [0, 1) for each word, [2, words]; a hash, so equal for equal words.

    For the number -1 the first one is 1, so that it is never chosen.
    """
    # Two numbers of the generator per word; integers wrap around.
    counters = 2 * words.astype(np.uint64) + np.array([[1], [2]], dtype=np.uint64)
    hashed = counters * GAMMA
    for shift, multiplier in MULTIPLIERS:
        hashed = (hashed ^ (hashed >> np.uint64(shift))) * np.uint64(multiplier)
    hashed ^= hashed >> np.uint64(31)
    draws = (hashed >> np.uint64(11)) * 2.0**-53
    draws[0, words < 0] = 1
    return draws
