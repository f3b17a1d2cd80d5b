"""Draw pairs A/B of sentences for next sentence prediction (Devlin et al., 2018, sections 3.1 and A.2).

A pair is ``{"input_ids": int64 [length], "token_type_ids": int64 [length], "next_sentence_label": 0 or 1, "example":
int}``. Drawing pairs chooses positions only; a pair is cut from the token file on access.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cloze.tokenization.templates import PairTemplate

IS_NEXT, IS_RANDOM = 0, 1


@dataclass(frozen=True)
class Sentences:
    """Hold the non-empty sentences of the documents to pair.

    Attributes:
        begins: position of each sentence in the tokens of the corpus, [sentences].
        offsets: number of tokens in the sentences before each one, then in all sentences, [sentences + 1].
        documents: number of each document's first sentence, then the number of sentences, [documents + 1].
    """

    begins: np.ndarray
    offsets: np.ndarray
    documents: np.ndarray

    @classmethod
    def of(cls, spans: np.ndarray, counts: np.ndarray) -> "Sentences":
        """Select the non-empty sentences.

        Args:
            spans: begin and end of each sentence in the tokens, [sentences, 2].
            counts: number of sentences in each document, [documents].
        """
        lengths = spans[:, 1] - spans[:, 0]
        filled = lengths > 0
        document_of = np.repeat(np.arange(len(counts)), counts)[filled]
        counts = np.bincount(document_of, minlength=len(counts))
        ends = np.cumsum(counts[counts > 0])
        offsets = np.concatenate([[0], np.cumsum(lengths[filled])])
        return cls(spans[filled, 0], offsets, np.concatenate([[0], ends]))

    @property
    def num_documents(self) -> int:
        """Count the documents that have a sentence."""
        return len(self.documents) - 1

    def __len__(self) -> int:
        return len(self.begins)


@dataclass(frozen=True)
class PairSettings:
    """Configure how pairs are drawn.

    Attributes:
        max_tokens: most tokens in A and B together.
        strategy: ``segment`` or ``sentence``.
        swap: negative pairs have A and B swapped (Lan et al., 2019), instead of a random B.
        random_probability: share of negative pairs.
        short_probability: share of segment pairs that get a random length below ``max_tokens``.
    """

    max_tokens: int
    strategy: str = "segment"
    swap: bool = False
    random_probability: float = 0.5
    short_probability: float = 0.1


class Pairs:
    """Hold the pairs of an epoch, in the order of the text.

    Args:
        tokens: ids of the whole corpus, [total].
        spans: begin and end of A, then of B, in ``tokens``, [pairs, 4].
        labels: 0 if B follows A, else 1, [pairs].
        template: the special tokens.
        cut: number of tokens cut off each pair to make it fit, [pairs].
        word_starts: whether a word begins at each token, [total], or None.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        spans: np.ndarray,
        labels: np.ndarray,
        template: PairTemplate,
        cut: np.ndarray,
        word_starts: np.ndarray | None = None,
    ):
        self.tokens, self.spans, self.labels, self.template = tokens, spans, labels, template
        self.cut, self.word_starts = cut, word_starts

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """Return the number of tokens in each pair, including special tokens, [pairs]."""
        return self.spans[:, 1] - self.spans[:, 0] + self.spans[:, 3] - self.spans[:, 2] + self.template.num_special

    def __getitem__(self, number: int) -> dict:
        a_begin, a_end, b_begin, b_end = self.spans[number]
        a, b = slice(a_begin, a_end), slice(b_begin, b_end)
        example = self.template.example(self.tokens[a], self.tokens[b], self.labels[number], number)
        if self.word_starts is not None:
            example["word_starts"] = self.template.word_starts(self.word_starts[a], self.word_starts[b])
        return example

    def positions(self, number: int) -> np.ndarray:
        """Return the position of each token of a pair in ``tokens``, -1 for special tokens, int64 [length]."""
        a_begin, a_end, b_begin, b_end = self.spans[number]
        return self.template.positions(range(a_begin, a_end), range(b_begin, b_end))


def draw_pairs(
    tokens: np.ndarray,
    sentences: Sentences,
    template: PairTemplate,
    settings: PairSettings,
    rng: np.random.Generator,
    word_starts: np.ndarray | None = None,
) -> Pairs:
    """Draw new pairs of all sentences.

    A random B comes from another document, drawn uniformly, and starts at a random sentence. With a single document,
    the result is empty.
    """
    draw = draw_segments if settings.strategy == "segment" else draw_neighbours
    if sentences.num_documents < (1 if settings.swap else 2):
        runs, labels = np.empty((0, 4), np.int64), np.empty(0, np.int8)
    else:
        runs, labels = draw(sentences, settings, rng)
    if settings.swap:
        swapped = labels == IS_RANDOM
        runs[swapped] = runs[swapped][:, [2, 3, 0, 1]]
    # Number of tokens in A and in B, before and after cutting.
    lengths = sentences.offsets[runs[:, [1, 3]]] - sentences.offsets[runs[:, [0, 2]]]
    kept = fit(lengths, settings.max_tokens)
    cut = lengths - kept
    # Each token is cut from the front or the end with equal probability, so the model sees more than beginnings.
    begins = sentences.begins[runs[:, [0, 2]]] + rng.binomial(cut, 0.5)
    spans = np.stack([begins[:, 0], begins[:, 0] + kept[:, 0], begins[:, 1], begins[:, 1] + kept[:, 1]], axis=1)
    return Pairs(tokens, spans, labels, template, cut.sum(1), word_starts)


def fit(lengths: np.ndarray, max_tokens: int) -> np.ndarray:
    """Cut the lengths of A and B, [pairs, 2], to ``max_tokens`` together: the longer one first, B if equal.

    With ``max_tokens`` 9, (10, 3) becomes (6, 3), and (10, 10) becomes (5, 4).
    """
    a, b = lengths.T
    a = np.minimum(a, np.maximum(max_tokens - b, (max_tokens + 1) // 2))
    return np.stack([a, np.minimum(b, max_tokens - a)], axis=1)


def draw_segments(
    sentences: Sentences, settings: PairSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw runs of sentences; return the first sentence and the end of A, then of B, [pairs, 4], and labels, [pairs].

    As in google-research/bert's create_pretraining_data.py, a run of sentences with ``max_tokens`` is cut in two at a
    random sentence; if B is random, the sentences that it replaces begin the next run. Differences:

    - Short lengths are drawn for each run, not for a whole document, which may be a book.
    - No run leaves the last sentence of its document alone.
    - If nothing follows A, for example because a random B replaced the last sentence, B has to be random. A later pair
      then becomes IsNext instead, to keep the requested share of random pairs.
    """
    offsets, documents = sentences.offsets.data, sentences.documents.data
    uniform = _uniforms(rng)
    found, labels = array("q"), array("b")
    probability, owed = settings.random_probability, 0.0
    for document in range(sentences.num_documents):
        first, last = documents[document], documents[document + 1]
        if settings.swap and last - first == 1:
            continue  # a sentence alone has no order
        while first < last:
            target = settings.max_tokens
            if next(uniform) < settings.short_probability:
                target = 2 + int(next(uniform) * (settings.max_tokens - 1))
            end = _run_end(offsets, first, last, target)
            if end - first == 1:
                label, split = IS_RANDOM, end
                owed += 1 - probability
            else:
                split = first + 1 + int(next(uniform) * (end - first - 1))
                label = IS_RANDOM if next(uniform) < probability else IS_NEXT
                if owed >= probability:
                    label = IS_NEXT
                    owed -= probability
            if label == IS_RANDOM and not settings.swap:
                other = int(next(uniform) * (sentences.num_documents - 1))
                other += other >= document
                begin, stop = documents[other], documents[other + 1]
                begin += int(next(uniform) * (stop - begin))
                rest = target - (offsets[split] - offsets[first])
                found.extend((first, split, begin, bisect_left(offsets, offsets[begin] + rest, begin + 1, stop)))
                first = split
            else:
                found.extend((first, split, split, end))
                first = end
            labels.append(label)
    return np.array(found, np.int64).reshape(-1, 4), np.array(labels)


def _run_end(offsets: memoryview, first: int, last: int, target: int) -> int:
    """Return the end of a run of two or more sentences from ``first``, at ``target`` tokens or the document's end."""
    end = bisect_left(offsets, offsets[first] + target, min(first + 2, last), last)
    if last - end == 1:
        # The last sentence would be alone: give it one sentence of this run, or add it to the run.
        end += -1 if end - first > 2 else 1
    return end


def draw_neighbours(
    sentences: Sentences, settings: PairSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw pairs of single sentences; the result has the form of ``draw_segments``.

    Every sentence with a next one is an A. A sentence that is alone in its document is an A with a random B.
    """
    counts = np.diff(sentences.documents)
    document_of = np.repeat(np.arange(len(counts)), counts)
    has_next = np.append(document_of[1:] == document_of[:-1], False)
    alone = (counts == 1)[document_of]
    a = np.flatnonzero(has_next if settings.swap else has_next | alone)
    forced = alone[a]
    free = len(a) - forced.sum()
    # The share of random pairs stays as requested: each forced one reduces the probability of the others.
    probability = (settings.random_probability * len(a) - forced.sum()) / max(free, 1)
    is_random = forced | (rng.random(len(a)) < probability)
    b = a + 1
    if not settings.swap:
        other = rng.integers(sentences.num_documents - 1, size=is_random.sum())
        other += other >= document_of[a[is_random]]
        b[is_random] = sentences.documents[other] + (rng.random(len(other)) * counts[other]).astype(np.int64)
    return np.stack([a, a + 1, b, b + 1], axis=1), is_random.astype(np.int8)


def _uniforms(rng: np.random.Generator) -> Iterator[float]:
    """Yield random numbers in [0, 1); drawing them in blocks takes a tenth of the time of single calls."""
    while True:
        yield from rng.random(4096).tolist()
