"""Token ids -> examples of at most max_seq_length. No token is lost.

Two ways to cut: ``Blocks`` runs documents together, ``Lines`` keeps lines apart. Both are sequences of examples
``{"input_ids": int64 [length], "example": its number}``, and ``"word_starts": bool [length]`` where words are known.
An example is cut out of the token file when it is asked for; nothing is copied or stored.
"""

import math

import numpy as np

from cloze.tokenization.templates import Template


class Blocks:
    """Documents joined with a separator between them and cut every ``room`` tokens; the last block is short.

    With room for 3 tokens and the separator 9, the documents [1 2] [3 4 5 6] become [1 2 9] [3 4 5] [6].

    Args:
        tokens: ids of the whole corpus, [total].
        spans: where each document to use begins and ends in them, [documents, 2].
        template: the special tokens.
        max_seq_length: tokens in a block, special ones included.
        word_starts: whether a word begins at each token, [total], or None.
    """

    def __init__(self, tokens, spans, template: Template, max_seq_length: int, word_starts=None):
        self.tokens, self.spans, self.template, self.starts = tokens, spans, template, word_starts
        self.room = template.room(max_seq_length)
        self.separator = np.array(template.separator, dtype=np.int64)
        # Where each document ends in the joined text, its separator counted; the last one has none.
        self.ends = np.cumsum(spans[:, 1] - spans[:, 0] + len(self.separator))
        self.total = int(self.ends[-1]) - len(self.separator) if len(spans) else 0

    def __len__(self) -> int:
        return math.ceil(self.total / self.room)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each example, special ones included."""
        starts = np.arange(0, self.total, self.room)
        lengths = np.minimum(self.room, self.total - starts)
        return lengths + self.template.num_special

    def __getitem__(self, number: int) -> dict:
        if number >= len(self):
            raise IndexError(number)
        start, stop = number * self.room, min((number + 1) * self.room, self.total)
        example = self.template.example(self.pieces(self.tokens, self.separator, start, stop), int(number))
        if self.starts is not None:
            separator_starts = np.ones(len(self.separator))
            example["word_starts"] = self.template.word_starts(self.pieces(self.starts, separator_starts, start, stop))
        return example

    def pieces(self, values: np.ndarray, separator: np.ndarray, start: int, stop: int) -> list[np.ndarray]:
        """What stands between ``start`` and ``stop`` of the joined text, document by document."""
        found = []
        document = int(np.searchsorted(self.ends, start, side="right"))
        while start < stop:
            first, last = self.spans[document]
            length = last - first
            offset = start - (self.ends[document] - length - len(separator))
            taken = values[first + offset : min(first + offset + stop - start, last)]
            rest = separator[max(offset - length, 0) :][: stop - start - len(taken)]
            found += [taken, rest]
            start += len(taken) + len(rest)
            document += 1
        return found


class Lines:
    """A line is an example; one that is longer than ``room`` is split into several, or cut off with ``truncate``.

    With room for 3 tokens, the lines [1 2] [3 4 5 6] become [1 2] [3 4 5] [6]; truncated, [1 2] [3 4 5].
    Arguments as those of Blocks, with lines for documents. Lines without a token are left out.
    """

    def __init__(self, tokens, spans, template: Template, max_seq_length: int, word_starts=None, truncate=False):
        self.tokens, self.template, self.word_starts = tokens, template, word_starts
        room = template.room(max_seq_length)
        lengths = spans[:, 1] - spans[:, 0]
        pieces = np.minimum(lengths, 1) if truncate else -(-lengths // room)
        piece = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        self.begins = np.repeat(spans[:, 0], pieces) + piece * room
        self.ends = np.minimum(self.begins + room, np.repeat(spans[:, 1], pieces))

    def __len__(self) -> int:
        return len(self.begins)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each example, special ones included."""
        return self.ends - self.begins + self.template.num_special

    def __getitem__(self, number: int) -> dict:
        span = slice(self.begins[number], self.ends[number])
        example = self.template.example([self.tokens[span]], int(number))
        if self.word_starts is not None:
            example["word_starts"] = self.template.word_starts([self.word_starts[span]])
        return example
