"""Cut token ids into examples of at most max_seq_length, without losing a token.

``Blocks`` joins documents, ``Lines`` keeps lines apart. Both are sequences of examples ``{"input_ids": int64 [length],
"example": int}``, with ``"word_starts": bool [length]`` if words are known. An example is cut from the token file on
access; nothing is copied in advance.
"""

import logging
import math
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from cloze.config.data_arguments import BlockArguments
from cloze.data.builders import ExampleBuilder, Split
from cloze.data.context import DataContext
from cloze.data.splits import DatasetSplits, make_splits
from cloze.errors import UserError
from cloze.tokenization.templates import Template, line_template_of, template_of

logger = logging.getLogger(__name__)


class Blocks:
    """Join documents with separators, and cut the result every ``max_tokens``; the last block may be shorter.

    With ``max_tokens`` 3 and the separator 9, the documents [1 2] [3 4 5 6] become [1 2 9] [3 4 5] [6]. If the template
    adds nothing at the end of a block, the separator also follows the last document, unless it would be alone in a
    block: [1 2 9] [3 4 5] [6 9].

    Args:
        tokens: ids of the whole corpus, [total].
        spans: begin and end of each selected document in ``tokens``, [documents, 2].
        template: the special tokens.
        max_seq_length: tokens in a block, including special tokens.
        word_starts: whether a word begins at each token, [total], or None.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        spans: np.ndarray,
        template: Template,
        max_seq_length: int,
        word_starts: np.ndarray | None = None,
    ):
        self.tokens, self.spans, self.template, self.word_starts = tokens, spans, template, word_starts
        self.max_tokens = template.max_tokens(max_seq_length)
        self.separator = np.array(template.separator, dtype=np.int64)
        # End of each document in the joined text, including its separator.
        self.ends = np.cumsum(spans[:, 1] - spans[:, 0] + len(self.separator))
        self.total = int(self.ends[-1]) - len(self.separator) if len(spans) else 0
        if not template.suffix:
            self.total += min(len(self.separator), -self.total % self.max_tokens)

    def __len__(self) -> int:
        return math.ceil(self.total / self.max_tokens)

    @property
    def lengths(self) -> np.ndarray:
        """Return the number of tokens in each example, including special tokens, [examples]."""
        starts = np.arange(0, self.total, self.max_tokens)
        lengths = np.minimum(self.max_tokens, self.total - starts)
        return lengths + self.template.num_special

    def __getitem__(self, number: int) -> dict:
        if number >= len(self):
            raise IndexError(number)
        example = self.template.example(self._pieces(number, self.tokens, self.separator), int(number))
        if self.word_starts is not None:
            pieces = self._pieces(number, self.word_starts, np.ones_like(self.separator))
            example["word_starts"] = self.template.word_starts(pieces)
        return example

    def positions(self, number: int) -> np.ndarray:
        """Return the position of each token of an example in ``tokens``, -1 for special tokens, int64 [length]."""
        return self.template.positions(self._pieces(number, range(len(self.tokens)), -np.ones_like(self.separator)))

    def _pieces(self, number: int, values: Any, separator: np.ndarray) -> list[Any]:
        """Return a block's values, document by document, each with its separator."""
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
    """Make each line an example; split a line longer than ``max_tokens``, or cut it off with ``truncate``.

    With ``max_tokens`` 3, the lines [1 2] [3 4 5 6] become [1 2] [3 4 5] [6], or [1 2] [3 4 5] with ``truncate``. Lines
    without a token are skipped. If the template adds nothing at the end of an example, the separator 9 follows the end
    of each line: [1 2 9] [3 4 5] [6 9], or [1 2 9] [3 4 5] with ``truncate``. The other arguments are the same as for
    ``Blocks``, with lines instead of documents.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        spans: np.ndarray,
        template: Template,
        max_seq_length: int,
        word_starts: np.ndarray | None = None,
        truncate: bool = False,
    ):
        self.tokens, self.template, self.word_starts = tokens, template, word_starts
        self.separator = np.array(() if template.suffix else template.separator, dtype=np.int64)
        max_tokens = template.max_tokens(max_seq_length) - len(self.separator)
        lengths = spans[:, 1] - spans[:, 0]
        pieces = np.minimum(lengths, 1) if truncate else -(-lengths // max_tokens)
        piece = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        self.begins = np.repeat(spans[:, 0], pieces) + piece * max_tokens
        line_ends = np.repeat(spans[:, 1], pieces)
        self.ends = np.minimum(self.begins + max_tokens, line_ends)
        self.completes_line = self.ends == line_ends

    def __len__(self) -> int:
        return len(self.begins)

    @property
    def lengths(self) -> np.ndarray:
        """Return the number of tokens in each example, including special tokens, [examples]."""
        return self.ends - self.begins + self.completes_line * len(self.separator) + self.template.num_special

    def __getitem__(self, number: int) -> dict:
        example = self.template.example(self._pieces(number, self.tokens, self.separator), int(number))
        if self.word_starts is not None:
            pieces = self._pieces(number, self.word_starts, np.ones_like(self.separator))
            example["word_starts"] = self.template.word_starts(pieces)
        return example

    def positions(self, number: int) -> np.ndarray:
        """Return the position of each token of an example in ``tokens``, -1 for special tokens, int64 [length]."""
        return self.template.positions(self._pieces(number, range(len(self.tokens)), -np.ones_like(self.separator)))

    def _pieces(self, number: int, values: Any, separator: np.ndarray) -> list[Any]:
        """Return an example's values, and the separator if a line ends with it."""
        found = values[self.begins[number] : self.ends[number]]
        return [found, separator] if self.completes_line[number] else [found]


class BlockBuilder(ExampleBuilder[Blocks | Lines]):
    """Cut documents into blocks, or into lines with ``line_by_line``; nothing is random, so all epochs are equal."""

    data_args: BlockArguments

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_seq_length: int, data_args: BlockArguments):
        super().__init__(tokenizer, max_seq_length, data_args)
        self.template = (line_template_of if data_args.line_by_line else template_of)(tokenizer)
        self.granularity = "line" if data_args.line_by_line else "document"

    def build(self, split: Split, epoch: int | None) -> Blocks | Lines:
        """Return the examples of a split; raise UserError if there are none."""
        examples = self.build_chunk(split)
        if not len(examples):
            raise UserError(
                f"{split.name}: the tokenizer finds no token in the selected documents: give more text, or change "
                "--validation_split_percentage"
            )
        return examples

    def build_chunk(self, split: Split, rng: np.random.Generator | None = None) -> Blocks | Lines:
        """Return the examples of a split; there may be none."""
        corpus = split.corpus
        arguments = corpus.tokens, corpus.spans(split.documents), self.template, self.max_seq_length, corpus.word_starts
        if self.data_args.line_by_line:
            return Lines(*arguments, truncate=self.data_args.truncate_long_lines)
        return Blocks(*arguments)

    def describe(self, split: Split, examples: Blocks | Lines, limit: int | None) -> str:
        """Describe the number and the length of the first ``limit`` examples."""
        self.check_maskable(split, examples, limit)
        kind = "lines" if self.data_args.line_by_line else "blocks"
        lengths = examples.lengths[:limit]
        return f"{len(lengths):,} {kind} of up to {self.max_seq_length} tokens, {lengths.mean():.0f} on average"


def make_block_splits(context: DataContext) -> DatasetSplits:
    """Return blocks or lines to train and to evaluate on; log their statistics and a sample."""
    tokenizer = context.tokenizer
    splits = make_splits(context, BlockBuilder(tokenizer, context.max_seq_length, context.data_args))
    if splits.samples:
        logger.info("An example: %s", " ".join(str(tokenizer.decode(splits.samples[0]["input_ids"])).split())[:300])
    return splits
