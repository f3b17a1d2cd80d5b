"""Define what makes examples out of the documents of a split."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from cloze.config.data_arguments import DataArguments, MaskingArguments
from cloze.data.collators import special_ids
from cloze.errors import UserError
from cloze.tokenization.token_cache import TokenizedCorpus


@dataclass
class Split:
    """Name the documents of a corpus to train on, or to evaluate on; all of them if ``documents`` is None."""

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


class ExampleBuilder(ABC):
    """Make the examples of an objective out of tokenized documents.

    Args:
        data_args: tokens of the examples are to be masked if they are ``MaskingArguments``.

    Attributes:
        granularity: what documents are tokenized as: ``document``, ``line``, ``sentence`` or ``sentence_per_line``.
        min_documents: documents that examples need.
        with_words: whether examples need to know where words begin.
    """

    granularity: str
    min_documents = 1

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_seq_length: int, data_args: DataArguments):
        self.max_seq_length, self.data_args = max_seq_length, data_args
        masks = isinstance(data_args, MaskingArguments)
        self.special, self.with_words = special_ids(tokenizer) if masks else [], masks and data_args.whole_word_mask

    @abstractmethod
    def build(self, split: Split, epoch: int | None) -> Sequence:
        """Return the examples of an epoch, with their ``lengths``; of evaluation if it is None; UserError if none."""

    @abstractmethod
    def build_chunk(self, split: Split, rng: np.random.Generator) -> Sequence:
        """Return the examples of some documents of a stream, if any."""

    @abstractmethod
    def describe(self, split: Split, examples: Sequence, limit: int | None) -> str:
        """Say what the examples are, of which the first ``limit`` are used."""

    def check_maskable(self, split: Split, examples: Sequence, limit: int | None) -> None:
        """Raise UserError if tokens are to be masked, and none of the examples' can be."""
        numbers = range(min(len(examples), limit or len(examples)))
        if self.special and all(np.isin(examples[number]["input_ids"], self.special).all() for number in numbers):
            raise UserError(
                f"{split.name}: nothing can be predicted, as all tokens are special ones, such as [UNK]: give more "
                "text, or a model or --tokenizer_name for such text"
            )
