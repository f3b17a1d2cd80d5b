"""Cut token ids into examples of at most max_seq_length. No token is lost.

Two ways to cut: ``Blocks`` runs documents together, ``Lines`` keeps lines apart. Both are sequences of examples
``{"input_ids": int64 [length], "example": its number}``, and ``"word_starts": bool [length]`` where words are known.
An example is cut out of the token file when it is asked for; nothing is copied or stored.
"""

import math

import numpy as np
from transformers import PreTrainedTokenizerBase

from cloze.config.data_arguments import DataTrainingArguments
from cloze.data.builders import ExampleBuilder, Split
from cloze.errors import UserError
from cloze.tokenization.templates import Template, template_of


class Blocks:
    """Join documents with a separator between them, and cut them every ``max_tokens``; the last block is short.

    With 3 tokens at most and the separator 9, the documents [1 2] [3 4 5 6] become [1 2 9] [3 4 5] [6].

    Args:
        tokens: ids of the whole corpus, [total].
        spans: where each document to use begins and ends in them, [documents, 2].
        template: the special tokens.
        max_seq_length: tokens in a block, special ones included.
        word_starts: whether a word begins at each token, [total], or None.
    """

    def __init__(self, tokens, spans, template: Template, max_seq_length: int, word_starts=None):
        self.tokens, self.spans, self.template, self.word_starts = tokens, spans, template, word_starts
        self.max_tokens = template.max_tokens(max_seq_length)
        self.separator = np.array(template.separator, dtype=np.int64)
        # Where each document ends in the joined text, its separator counted; the last one has none.
        self.ends = np.cumsum(spans[:, 1] - spans[:, 0] + len(self.separator))
        self.total = int(self.ends[-1]) - len(self.separator) if len(spans) else 0

    def __len__(self) -> int:
        return math.ceil(self.total / self.max_tokens)

    @property
    def lengths(self) -> np.ndarray:
        """Count the tokens in each example, special ones included, [examples]."""
        starts = np.arange(0, self.total, self.max_tokens)
        lengths = np.minimum(self.max_tokens, self.total - starts)
        return lengths + self.template.num_special

    def __getitem__(self, number: int) -> dict:
        if number >= len(self):
            raise IndexError(number)
        example = self.template.example(self.pieces(number, self.tokens, self.separator), int(number))
        if self.word_starts is not None:
            pieces = self.pieces(number, self.word_starts, np.ones_like(self.separator))
            example["word_starts"] = self.template.word_starts(pieces)
        return example

    def pieces(self, number: int, values: np.ndarray, separator: np.ndarray) -> list[np.ndarray]:
        """Return the values of a block, and of the separators in it, document by document."""
        start, stop, found = number * self.max_tokens, min((number + 1) * self.max_tokens, self.total), []
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
    """Make each line an example; one longer than ``max_tokens`` is split into several, or cut off with ``truncate``.

    With 3 tokens at most, the lines [1 2] [3 4 5 6] become [1 2] [3 4 5] [6]; truncated, [1 2] [3 4 5].
    Arguments as those of Blocks, with lines for documents. Lines without a token are left out.
    """

    def __init__(self, tokens, spans, template: Template, max_seq_length: int, word_starts=None, truncate=False):
        self.tokens, self.template, self.word_starts = tokens, template, word_starts
        max_tokens = template.max_tokens(max_seq_length)
        lengths = spans[:, 1] - spans[:, 0]
        pieces = np.minimum(lengths, 1) if truncate else -(-lengths // max_tokens)
        piece = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        self.begins = np.repeat(spans[:, 0], pieces) + piece * max_tokens
        self.ends = np.minimum(self.begins + max_tokens, np.repeat(spans[:, 1], pieces))

    def __len__(self) -> int:
        return len(self.begins)

    @property
    def lengths(self) -> np.ndarray:
        """Count the tokens in each example, special ones included, [examples]."""
        return self.ends - self.begins + self.template.num_special

    def __getitem__(self, number: int) -> dict:
        span = slice(self.begins[number], self.ends[number])
        example = self.template.example([self.tokens[span]], int(number))
        if self.word_starts is not None:
            example["word_starts"] = self.template.word_starts([self.word_starts[span]])
        return example


class BlockBuilder(ExampleBuilder):
    """Cut documents into blocks, or lines with ``line_by_line``: the same in all epochs, as nothing is drawn."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_seq_length: int, data_args: DataTrainingArguments):
        super().__init__(tokenizer, max_seq_length, data_args)
        self.template = template_of(tokenizer)
        self.granularity = "line" if data_args.line_by_line else "document"

    def build(self, split: Split, epoch: int | None) -> Blocks | Lines:
        """Return the examples of a split; UserError if there are none."""
        examples = self.build_chunk(split)
        if not len(examples):
            raise UserError(
                "the tokenizer finds no token in the documents to use: give more text, or hold out more of it"
            )
        return examples

    def build_chunk(self, split: Split, rng: np.random.Generator | None = None) -> Blocks | Lines:
        """Return the examples of a split, if any."""
        corpus = split.corpus
        arguments = corpus.tokens, corpus.spans(split.documents), self.template, self.max_seq_length, corpus.word_starts
        if self.data_args.line_by_line:
            return Lines(*arguments, truncate=self.data_args.truncate_long_lines)
        return Blocks(*arguments)

    def describe(self, split: Split, examples: Blocks | Lines, limit: int | None) -> str:
        """Say how many examples there are, and how long."""
        self.check_maskable(split, examples, limit)
        kind = "lines" if self.data_args.line_by_line else "blocks"
        lengths = examples.lengths[:limit]
        return f"{len(lengths):,} {kind} of up to {self.max_seq_length} tokens, {lengths.mean():.0f} on average"
