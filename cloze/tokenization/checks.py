"""Check whether a tokenizer covers a text and tracks words."""

import logging
from collections.abc import Iterable, Sequence

import numpy as np
from tokenizers import models
from transformers import PreTrainedTokenizerBase

from cloze.errors import UserError
from cloze.tokenization.encoding import CHUNK_CHARS, chunk_documents, take_characters
from cloze.tokenization.properties import plain_backend, unknown_id

logger = logging.getLogger(__name__)

# Shares of unknown tokens that cause a warning and an error.
MUCH_UNKNOWN, MOST_UNKNOWN = 0.02, 0.5
# An Egyptian hieroglyph, which hardly any vocabulary contains.
RARE_TEXT = "\U00013000"
# Models of the tokenizers library that track which word a token belongs to.
WORD_MODELS = ("WordPiece", "BPE", "Unigram")


def count_unknown(ids: np.ndarray, unknown: int | None) -> int:
    """Count the unknown token in ids [tokens]; return 0 if ``unknown``, its id, is None."""
    return 0 if unknown is None else int(np.count_nonzero(ids == unknown))


def check_known(
    share: float, documents: Iterable[Sequence[str]], name: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise UserError or warn if many tokens are unknown, ``share`` of them, or if many characters are dropped."""
    check_unknown(share, name, tokenizer)
    check_dropped(documents, name, tokenizer)


def check_unknown(share: float, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError if more than MOST_UNKNOWN of the tokens are unknown; warn if more than MUCH_UNKNOWN are."""
    if share > MUCH_UNKNOWN:
        _raise_or_warn(share, describe_unknown(share, name, tokenizer))


def warn_of_unknown(share: float, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Warn if more than MUCH_UNKNOWN of the tokens are unknown."""
    if share > MUCH_UNKNOWN:
        logger.warning("%s", describe_unknown(share, name, tokenizer))


def describe_unknown(share: float, name: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Describe the share of unknown tokens in the text ``name``, the likely causes and the cure."""
    model = tokenizer.backend_tokenizer.model if tokenizer.is_fast else None
    # WordPiece maps each longer word to [UNK], whatever its characters.
    longest = getattr(model, "max_input_chars_per_word", None)
    unknown = unknown_id(tokenizer)
    assert unknown is not None, "the share is 0 without an unknown token"
    token = tokenizer.convert_ids_to_tokens(unknown)
    return (
        f"{name}: {share:.1%} of the tokens are {token}: the tokenizer {tokenizer.name_or_path} "
        f"({type(tokenizer).__name__}) lacks characters of the text"
        + f", or words are longer than {longest} characters" * (longest is not None)
        + ": give a model or --tokenizer_name for such text, or train a byte-level tokenizer (--model_type roberta)"
    )


def check_dropped(documents: Iterable[Sequence[str]], name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError or warn if the tokenizer drops many characters in the first CHUNK_CHARS of the text.

    BPE without an unknown token drops characters silently.
    """
    backend = plain_backend(tokenizer) if tokenizer.is_fast else None
    if backend is None or not isinstance(backend.model, models.BPE) or backend.model.unk_token is not None:
        return
    if backend.encode(RARE_TEXT, add_special_tokens=False).ids:
        return
    texts = take_characters(next(chunk_documents(documents))[0], CHUNK_CHARS)
    if backend.normalizer:
        texts = list(map(backend.normalizer.normalize_str, texts))
    count = kept = 0
    for text, encoding in zip(texts, backend.encode_batch(texts, add_special_tokens=False), strict=True):
        covered = {position for begin, end in encoding.offsets for position in range(begin, end)}
        positions = {position for position, character in enumerate(text) if not character.isspace()}
        count += len(positions)
        kept += len(positions & covered)
    share = 1 - kept / max(1, count)
    problem = (
        f"{name}: the tokenizer {tokenizer.name_or_path} ({type(tokenizer).__name__}) drops {share:.1%} of the "
        "characters, which are not in its vocabulary: give a model or --tokenizer_name for such text, or train a "
        "byte-level tokenizer (--model_type roberta)"
    )
    if share > MUCH_UNKNOWN:
        _raise_or_warn(share, problem)


def _raise_or_warn(share: float, problem: str) -> None:
    if share > MOST_UNKNOWN:
        raise UserError(problem)
    logger.warning("%s", problem)


def check_whole_words(tokenizer: PreTrainedTokenizerBase, flag: str) -> None:
    """Raise UserError for a tokenizer that does not track words, which the flag needs."""
    name = type(tokenizer).__name__
    if not tokenizer.is_fast:
        raise UserError(f"{flag}: {name} is a slow tokenizer: use a fast one, or drop the flag")
    backend = tokenizer.backend_tokenizer
    kind = type(backend.model).__name__
    if kind not in WORD_MODELS or backend.pre_tokenizer is None:
        raise UserError(f"{flag}: {name} ({kind}) does not mark where words begin: drop the flag")
