"""Hold what examples are made of, and for what."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from cloze.config.data_arguments import DataArguments
from cloze.text.corpus import Corpus


@dataclass(frozen=True)
class DataContext:
    """Hold what every example builder is made from.

    Attributes:
        data_args: the settings of the data.
        do_train: whether there are examples to train on.
        do_eval: whether there are examples to evaluate on.
        shuffle_seed: of what is held out, and of what is drawn anew for each epoch.
        data_seed: of what stays the same when ``--seed`` changes.
        overwrite_cache: whether this process tokenizes again what is prepared already.
        cache: the folder of prepared corpora and trained tokenizers.
        corpora: the training and the validation corpus, each if asked for.
        config: of the model.
        tokenizer: of the model.
        max_seq_length: tokens in an example, as asked for or as the model takes at most.
    """

    data_args: DataArguments
    do_train: bool
    do_eval: bool
    shuffle_seed: int
    data_seed: int
    overwrite_cache: bool
    cache: Path
    corpora: tuple[Corpus | None, Corpus | None]
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    max_seq_length: int
