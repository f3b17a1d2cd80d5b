"""Make the tokenizer with which a checkpoint is adapted from the checkpoint's own."""

import logging
from pathlib import Path
from typing import TypeGuard

from transformers import PreTrainedTokenizerBase

from cloze.config.adaptation_arguments import AdaptationArguments
from cloze.config.arguments import ModelArguments
from cloze.config.data_arguments import DataArguments, MaskingArguments
from cloze.text.corpus import read_documents
from cloze.text.sources import Corpora
from cloze.tokenization.coverage import describe_lengths
from cloze.tokenization.extension import extend_tokenizer
from cloze.tokenization.replacement import load_saved, replace_tokenizer

logger = logging.getLogger(__name__)

# Of the text, if it is streamed or only its words are counted; a longer text changes a vocabulary little.
FIRST_CHARS = 50_000_000


def _changes_vocabulary(model_args: ModelArguments) -> TypeGuard[AdaptationArguments]:
    return isinstance(model_args, AdaptationArguments) and model_args.changes_vocabulary


def mask_whole_words(model_args: ModelArguments, data_args: DataArguments) -> None:
    """Let evaluations mask whole words if the run changes the vocabulary, as only these are the same in both."""
    if _changes_vocabulary(model_args) and isinstance(data_args, MaskingArguments):
        if not data_args.eval_whole_word_mask:
            logger.info("--eval_whole_word_mask is on, because only whole words can be compared across vocabularies")
        data_args.eval_whole_word_mask = True


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
    if not _changes_vocabulary(model_args):
        return own
    if checkpoint is not None:
        return load_saved(checkpoint)
    texts = list(corpora.train.values())
    if model_args.new_tokenizer:
        limit = FIRST_CHARS if data_args.streaming else None
        tokenizer = replace_tokenizer(own, texts, model_args.vocab_size, limit, cache, overwrite)
    else:
        words, word_list = model_args.add_vocabulary, model_args.vocabulary_file
        if data_args.mixture:
            # The first text is the domain; the words of a large text for replay would crowd out its words.
            texts = texts[:1]
        tokenizer = extend_tokenizer(own, texts, words, word_list, FIRST_CHARS, cache, overwrite)
    for text in (corpora.validation or corpora.train).values():
        lengths = describe_lengths(read_documents(text), own, tokenizer)
        logger.info("Tokenizer: %s, at the beginning of %s", lengths, text.name)
    return tokenizer
