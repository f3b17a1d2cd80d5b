"""What makes examples out of the documents of a split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from cloze.config.data_arguments import MaskingArguments
from cloze.data.collators import special_ids
from cloze.errors import UserError
from cloze.tokenization.token_cache import TokenizedCorpus


@dataclass
class Split:
    """The documents of a corpus to train on, or to evaluate on; all of them if ``documents`` is None."""

    name: str
    corpus: TokenizedCorpus
    documents: np.ndarray | None

    def __str__(self) -> str:
        count = self.corpus.num_documents if self.documents is None else len(self.documents)
        part = "" if self.documents is None else f" of {self.corpus.num_documents:,}"
        tokens = f"{self.corpus.count_tokens(self.documents):,} tokens"
        sentences = f"{'about ' if self.corpus.is_estimate else ''}{self.corpus.num_sentences:,} sentences in all"
        unknown = f"{self.corpus.unknown_share:.1%} unknown tokens"
        return f"{count:,}{part} documents, {tokens}, from {self.name} ({sentences}, {unknown})"


class ExampleBuilder(Protocol):
    """Make the examples of an objective out of tokenized documents.

    Attributes:
        granularity: what documents are tokenized as: ``document``, ``line``, ``sentence`` or ``sentence_per_line``.
        min_documents: documents that examples need.
        with_words: whether examples need to know where words begin.
    """

    granularity: str
    min_documents: int
    with_words: bool

    def build(self, split: Split, epoch: int | None) -> Sequence:
        """Return the examples of an epoch, with their ``lengths``; of evaluation if it is None; UserError if none."""

    def build_chunk(self, split: Split, rng: np.random.Generator) -> Sequence:
        """Return the examples of some documents of a stream, if any."""

    def describe(self, split: Split, examples: Sequence, limit: int | None) -> str:
        """Say what the examples are, of which the first ``limit`` are used; UserError if nothing is to be learnt."""


class Maskable:
    """Add to an example builder what masking needs: where words begin, and a token that can be masked."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_seq_length: int, data_args: MaskingArguments, *args):
        super().__init__(tokenizer, max_seq_length, data_args, *args)
        self.special, self.with_words = special_ids(tokenizer), data_args.whole_word_mask

    def describe(self, split: Split, examples: Sequence, limit: int | None) -> str:
        """Say what the builder says; UserError if no token of the examples can be masked."""
        numbers = range(min(len(examples), limit or len(examples)))
        if all(np.isin(examples[number]["input_ids"], self.special).all() for number in numbers):
            raise UserError(
                f"{split.name}: nothing can be predicted, as all tokens are special ones, such as [UNK]: give more "
                "text, or a model or --tokenizer_name for such text"
            )
        return super().describe(split, examples, limit)
