"""Collect the inputs of every example builder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from cloze.config.data_arguments import DataArguments
from cloze.text.sources import Corpora

ArgumentsT = TypeVar("ArgumentsT", bound=DataArguments)


@dataclass(frozen=True)
class DataContext(Generic[ArgumentsT]):
    """Hold the inputs of every example builder.

    Attributes:
        data_args: the data settings.
        do_train: whether training examples are needed.
        do_eval: whether evaluation examples are needed.
        shuffle_seed: seed of the held-out documents, and of everything that is drawn again in each epoch.
        data_seed: seed of everything that stays the same when ``--seed`` changes.
        overwrite_cache: whether this process tokenizes again although a prepared corpus exists.
        cache: folder of prepared corpora and trained tokenizers.
        corpora: the training and the validation texts.
        config: of the model.
        tokenizer: of the model.
        max_seq_length: most tokens in an example, including special tokens.
    """

    data_args: ArgumentsT
    do_train: bool
    do_eval: bool
    shuffle_seed: int
    data_seed: int
    overwrite_cache: bool
    cache: Path
    corpora: Corpora
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    max_seq_length: int
