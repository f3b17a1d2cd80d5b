"""Make the tokenizer with which a checkpoint is adapted from the checkpoint's own."""

import logging
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from cloze.config.adaptation_arguments import AdaptationArguments
from cloze.config.arguments import ModelArguments
from cloze.config.data_arguments import DataArguments
from cloze.text.corpus import read_documents
from cloze.text.sources import Corpora
from cloze.tokenization.coverage import describe_lengths
from cloze.tokenization.replacement import load_saved, replace_tokenizer

logger = logging.getLogger(__name__)

# Of the text, if it is streamed; a longer text changes a vocabulary little.
FIRST_CHARS = 50_000_000


def adapt_tokenizer(
    own: PreTrainedTokenizerBase,
    model_args: ModelArguments,
    data_args: DataArguments,
    corpora: Corpora,
    checkpoint: Path | None,
    cache: Path,
    overwrite: bool,
) -> PreTrainedTokenizerBase:
    """Return the tokenizer to train with: ``own`` unless the settings change the vocabulary.

    A resumed run takes the tokenizer of its ``checkpoint``.
    """
    if not (isinstance(model_args, AdaptationArguments) and model_args.changes_vocabulary):
        return own
    if checkpoint is not None:
        return load_saved(checkpoint)
    limit = FIRST_CHARS if data_args.streaming else None
    tokenizer = replace_tokenizer(own, list(corpora.train.values()), model_args.vocab_size, limit, cache, overwrite)
    for text in (corpora.validation or corpora.train).values():
        lengths = describe_lengths(read_documents(text), own, tokenizer)
        logger.info("Tokenizer: %s, at the beginning of %s", lengths, text.name)
    return tokenizer
