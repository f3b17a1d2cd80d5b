"""Define the interface that turns the documents of a split into examples."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from transformers import PreTrainedTokenizerBase

from cloze.config.data_arguments import DataArguments, MaskingArguments
from cloze.data.collators import special_ids
from cloze.data.samplers import Examples
from cloze.errors import UserError
from cloze.tokenization.token_cache import TokenizedCorpus

ExamplesT = TypeVar("ExamplesT", bound=Examples)


@dataclass
class Split:
    """Select the documents of a corpus to train or to evaluate on.

    Attributes:
        name: of the corpus.
        corpus: the tokenized corpus.
        documents: numbers of the selected documents, [documents]; None selects all.
    """

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


class ExampleBuilder(ABC, Generic[ExamplesT]):
    """Turn tokenized documents into the examples of an objective.

    Args:
        data_args: ``MaskingArguments`` if tokens of the examples will be masked.

    Attributes:
        granularity: unit of tokenization: ``document``, ``line``, ``sentence`` or ``sentence_per_line``.
        min_documents: smallest number of documents that gives examples.
        special: ids of tokens that are never masked; empty if nothing is masked.
        train_words: whether training examples need the positions where words begin.
        eval_words: whether evaluation examples need the numbers of the words.
    """

    granularity: str
    min_documents = 1

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_seq_length: int, data_args: DataArguments):
        self.max_seq_length, self.data_args = max_seq_length, data_args
        self.special, self.train_words, self.eval_words = [], False, False
        if isinstance(data_args, MaskingArguments):
            self.special = special_ids(tokenizer)
            self.train_words, self.eval_words = data_args.whole_word_mask, data_args.eval_whole_word_mask

    @abstractmethod
    def build(self, split: Split, epoch: int | None) -> ExamplesT:
        """Return the examples of an epoch, or of evaluation if it is None; raise UserError if there are none."""

    @abstractmethod
    def build_chunk(self, split: Split, rng: np.random.Generator) -> ExamplesT:
        """Return the examples of one chunk of a stream; there may be none."""

    @abstractmethod
    def describe(self, split: Split, examples: ExamplesT, limit: int | None) -> str:
        """Describe the first ``limit`` examples in one line."""

    def check_maskable(self, split: Split, examples: Examples, limit: int | None) -> None:
        """Raise UserError if tokens have to be masked, and every token of the examples is special."""
        numbers = range(min(len(examples), limit or len(examples)))
        if self.special and all(np.isin(examples[number]["input_ids"], self.special).all() for number in numbers):
            raise UserError(
                f"{split.name}: nothing can be predicted, because every token is special, such as [UNK]: give more "
                "text, or a model or --tokenizer_name for this text"
            )
