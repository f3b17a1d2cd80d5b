"""Find the rows of a checkpoint's vocabulary from which the rows of another tokenizer's tokens begin."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from tokenizers import Tokenizer
from transformers import PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from cloze.config.arguments import ModelArguments
from cloze.errors import UserError
from cloze.tokenization.loading import SPECIAL_TOKENS, load_tokenizer
from cloze.tokenization.properties import plain_backend, required_vocab_size, unknown_id

logger = logging.getLogger(__name__)


class Rows(NamedTuple):
    """Hold how the rows of a checkpoint's vocabulary become the rows of a tokenizer's.

    Attributes:
        pieces: for each id of the tokenizer, the old ids whose mean its row begins as; empty for the mean of all rows.
        new: text of each token that the checkpoint lacks, by id.
        replaced: whether old ids stand for other tokens now; otherwise tokens were added after them.
    """

    pieces: list[list[int]]
    new: dict[int, str]
    replaced: bool


def find_rows(
    model_args: ModelArguments,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    own: PreTrainedTokenizerBase | None = None,
) -> Rows | None:
    """Return how the checkpoint's rows become the rows of the tokenizer's vocabulary, None if they stay.

    Args:
        model_args: the model settings.
        config: the checkpoint's config.
        tokenizer: the tokenizer to train with.
        own: the checkpoint's own tokenizer, if ``tokenizer`` was made from it, with more or other tokens.

    Raises:
        UserError: if the user gave a tokenizer that is not the model's own with tokens added.
    """
    if model_args.model_name_or_path is None:
        return None
    size, count = config.vocab_size, required_vocab_size(tokenizer)
    replaced = own is not None and bool(_moved_tokens(own, tokenizer, size))
    # If tokens were added to the checkpoint's own, rows after these are spare and untrained.
    begin = size if own is None else min(size, required_vocab_size(own))
    if own is None and model_args.tokenizer_name:
        own = _own_tokenizer(model_args)
        if own is not None:
            _compare_vocabularies(own, tokenizer, size, model_args)
    if count <= begin and not replaced:
        return None
    if own is None or required_vocab_size(own) > size:
        own = _without_added_tokens(tokenizer if own is None else own, size, model_args)
    if replaced:
        known = _same_tokens(own, tokenizer)
    else:
        known = {number: number for number in [*range(begin), *range(count, size)]}
        count = max(count, size)
    tokens = {number: token for token, number in tokenizer.get_vocab().items()}
    new = {number: tokens.get(number, "") for number in range(count) if number not in known}
    pieces = {number: [old] for number, old in known.items()}
    pieces |= zip(new, _find_pieces(own, tokenizer, list(new.values())), strict=True)
    texts = {number: _text_of(tokenizer, token) for number, token in new.items()}
    return Rows([pieces[number] for number in range(count)], texts, replaced)


def _own_tokenizer(model_args: ModelArguments) -> PreTrainedTokenizerBase | None:
    """Return the checkpoint's own tokenizer, None if it has none."""
    try:
        return load_tokenizer(replace(model_args, tokenizer_name=None), None)
    except UserError:
        return None


def _moved_tokens(own: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase, size: int) -> list[str]:
    """Return the tokens of the checkpoint that have another id, or none, in the tokenizer."""
    ids = tokenizer.get_vocab()
    return [token for token, number in own.get_vocab().items() if number < size and ids.get(token) != number]


def _compare_vocabularies(
    own: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase, size: int, model_args: ModelArguments
) -> None:
    """Raise UserError or warn if ids stand for other tokens than in training."""
    trained = sum(number < size for number in own.get_vocab().values())
    changed = _moved_tokens(own, tokenizer, size)
    if changed and required_vocab_size(tokenizer) > size:
        raise _foreign_tokenizer(tokenizer, size, model_args)
    if 2 * len(changed) > trained:
        logger.warning(
            "--tokenizer_name %s does not fit the model's embeddings: %s of the %s tokens of %s have a different id or "
            "none; leave the flag out, or train from scratch",
            model_args.tokenizer_name,
            f"{len(changed):,}",
            f"{trained:,}",
            model_args.model_name_or_path,
        )


def _foreign_tokenizer(tokenizer: PreTrainedTokenizerBase, size: int, model_args: ModelArguments) -> UserError:
    cure = "leave out --tokenizer_name" if model_args.tokenizer_name else "give the longer one as --tokenizer_name"
    return UserError(
        f"{model_args.tokenizer_name or model_args.model_name_or_path}: the tokenizer has "
        f"{required_vocab_size(tokenizer):,} tokens, the model's vocabulary {size:,}, and it is not the model's own "
        f"tokenizer with tokens added: use the model's own ({cure}), or train from scratch with --model_type"
    )


def _without_added_tokens(
    tokenizer: PreTrainedTokenizerBase, size: int, model_args: ModelArguments
) -> PreTrainedTokenizerBase:
    """Return a copy of the tokenizer without the tokens added beyond the model's vocabulary."""
    if not tokenizer.is_fast:
        raise _foreign_tokenizer(tokenizer, size, model_args)
    settings = json.loads(plain_backend(tokenizer).to_str())
    settings["added_tokens"] = [token for token in settings["added_tokens"] if token["id"] < size]
    backend = Tokenizer.from_str(json.dumps(settings))
    if max(backend.get_vocab().values()) >= size:
        raise _foreign_tokenizer(tokenizer, size, model_args)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **_special_tokens(tokenizer, backend))


def _special_tokens(tokenizer: PreTrainedTokenizerBase, backend: Tokenizer) -> dict[str, str]:
    """Return the special tokens by their roles, as far as the backend has them."""
    tokens = {role: getattr(tokenizer, role) for role in SPECIAL_TOKENS}
    return {role: token for role, token in tokens.items() if token and backend.token_to_id(token) is not None}


def _are_alike(own: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether two tokenizers mark the beginning or the continuation of a word in the same way."""
    if not (own.is_fast and tokenizer.is_fast):
        return type(own) is type(tokenizer)
    one, two = own.backend_tokenizer, tokenizer.backend_tokenizer
    return type(one.model) is type(two.model) and type(one.decoder) is type(two.decoder)


def _same_tokens(own: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase) -> dict[int, int]:
    """Return the ids of tokens that both vocabularies have, new to old: special tokens of a role, and others."""
    old, new = own.get_vocab(), tokenizer.get_vocab()
    tokens = old.keys() & new.keys() if _are_alike(own, tokenizer) else set()
    pairs = [(token, token) for token in tokens]
    pairs += [(getattr(tokenizer, role), getattr(own, role)) for role in SPECIAL_TOKENS]
    return {new[token]: old[before] for token, before in pairs if token in new and before in old}


def _find_pieces(
    own: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]
) -> list[list[int]]:
    """Return the checkpoint's ids of the pieces of each token, without the unknown token."""
    added = tokenizer.get_added_vocab()
    inside = own.is_fast and _are_alike(own, tokenizer)
    found = [_pieces_in_model(token, own) if inside and token not in added else [] for token in tokens]
    others = [number for number, pieces in enumerate(found) if not pieces]
    texts = [_text_of(tokenizer, tokens[number]) for number in others]
    encoded = own(texts, add_special_tokens=False)["input_ids"] if texts else []
    unknown = unknown_id(own)
    for number, ids in zip(others, encoded, strict=True):
        found[number] = [piece for piece in ids if piece != unknown]
    return found


def _pieces_in_model(token: str, own: PreTrainedTokenizerBase) -> list[int]:
    """Return the pieces of a token with the marks of its model, such as ## or a space; empty if one is unknown."""
    pieces = [piece.id for piece in own.backend_tokenizer.model.tokenize(token)]
    return [] if unknown_id(own) in pieces else pieces


def _text_of(tokenizer: PreTrainedTokenizerBase, token: str) -> str:
    """Return the text of a token, without the mark of a word's beginning or continuation; "" for an unused id."""
    if not token or token in tokenizer.get_added_vocab():
        return token
    return tokenizer.convert_tokens_to_string([token]).strip().removeprefix("##")
