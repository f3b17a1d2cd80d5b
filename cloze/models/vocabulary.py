"""Extend a checkpoint's vocabulary: the weights of a new token are the mean over its pieces."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from cloze.config.arguments import ModelArguments
from cloze.errors import UserError
from cloze.models.trials import quiet
from cloze.tokenization.loading import load_tokenizer
from cloze.tokenization.properties import plain_backend, required_vocab_size

logger = logging.getLogger(__name__)

# Most new tokens to log.
MAX_LOGGED = 5


class NewToken(NamedTuple):
    """Hold a token beyond the model's vocabulary, and the ids of its pieces in the model's own tokenizer."""

    text: str
    pieces: list[int]


def find_new_tokens(
    model_args: ModelArguments, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> list[NewToken]:
    """Return the tokens beyond the checkpoint's vocabulary, in the order of their ids.

    Raises:
        UserError: if the tokenizer is not the model's own with tokens added.
    """
    if model_args.model_name_or_path is None:
        return []
    size, count = config.vocab_size, required_vocab_size(tokenizer)
    own = _own_tokenizer(model_args) if model_args.tokenizer_name else None
    if own is not None:
        _compare_vocabularies(own, tokenizer, size, model_args)
    if count <= size:
        return []
    if own is None or required_vocab_size(own) > size:
        own = _without_added_tokens(tokenizer if own is None else own, size, model_args)
    tokens = {number: token for token, number in tokenizer.get_vocab().items()}
    texts = [_text_of(tokenizer, tokens[number]) if number in tokens else "" for number in range(size, count)]
    encoded = own(texts, add_special_tokens=False)["input_ids"]
    return [
        NewToken(text, [piece for piece in ids if piece != own.unk_token_id])
        for text, ids in zip(texts, encoded, strict=True)
    ]


def _own_tokenizer(model_args: ModelArguments) -> PreTrainedTokenizerBase | None:
    """Return the checkpoint's own tokenizer, None if it has none."""
    try:
        return load_tokenizer(replace(model_args, tokenizer_name=None), None)
    except UserError:
        return None


def _compare_vocabularies(
    own: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase, size: int, model_args: ModelArguments
) -> None:
    """Raise UserError or warn if ids stand for other tokens than in training."""
    ids = tokenizer.get_vocab()
    trained = {token: number for token, number in own.get_vocab().items() if number < size}
    changed = [token for token, number in trained.items() if ids.get(token) != number]
    if changed and required_vocab_size(tokenizer) > size:
        raise _foreign_tokenizer(tokenizer, size, model_args)
    if 2 * len(changed) > len(trained):
        logger.warning(
            "--tokenizer_name %s does not fit the model's embeddings: %s of the %s tokens of %s have a different id or "
            "none; leave the flag out, or train from scratch",
            model_args.tokenizer_name,
            f"{len(changed):,}",
            f"{len(trained):,}",
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
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=tokenizer.unk_token)


def _text_of(tokenizer: PreTrainedTokenizerBase, token: str) -> str:
    """Return the text of a token, without the mark of a word's beginning or continuation."""
    if token in tokenizer.get_added_vocab():
        return token
    return tokenizer.convert_tokens_to_string([token]).strip().removeprefix("##")


@torch.no_grad()
def resize_vocabulary(model: PreTrainedModel, new_tokens: Sequence[NewToken]) -> None:
    """Add weights for new tokens in embeddings, head and biases: the mean over the weights of their pieces."""
    if not new_tokens:
        return
    size = model.config.vocab_size
    shapes = {name: weights.shape for name, weights in model.named_parameters()}
    with quiet():
        model.resize_token_embeddings(size + len(new_tokens))
    for name, weights in model.named_parameters():
        # Which weights have grown, and in which dimension, depends on the architecture.
        for dim, (before, after) in enumerate(zip(shapes[name], weights.shape, strict=True)):
            if before != after:
                mean = weights.narrow(dim, 0, size).mean(dim)
                for number, token in enumerate(new_tokens, size):
                    pieces = torch.tensor(token.pieces, dtype=torch.long)
                    value = weights.index_select(dim, pieces).mean(dim) if token.pieces else mean
                    weights.select(dim, number).copy_(value)
    texts = [token.text for token in new_tokens]
    unknown = sum(not token.pieces for token in new_tokens)
    logger.info(
        "Vocabulary: %s new tokens (%s%s) get the mean weights of their pieces%s",
        f"{len(texts):,}",
        ", ".join(texts[:MAX_LOGGED]),
        ", ..." if len(texts) > MAX_LOGGED else "",
        f"; {unknown:,} without known pieces: the mean of all tokens" if unknown else "",
    )
