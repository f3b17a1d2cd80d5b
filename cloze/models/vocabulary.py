"""Add tokens that the checkpoint's vocabulary lacks: their weights are the mean of their pieces."""

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

# New tokens whose names are logged.
LOGGED = 5


class NewToken(NamedTuple):
    """Hold a token beyond the model's vocabulary, and the ids that the model's own tokenizer gives its text."""

    text: str
    pieces: list[int]


def find_new_tokens(
    model_args: ModelArguments, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> list[NewToken]:
    """Return the tokens beyond the checkpoint's vocabulary, in the order of their ids.

    UserError if they were not added to the model's own tokenizer, but belong to another one.
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
    """Return the checkpoint's own tokenizer if it has one."""
    try:
        return load_tokenizer(replace(model_args, tokenizer_name=None), None)
    except UserError:
        return None


def _compare_vocabularies(
    own: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase, size: int, model_args: ModelArguments
) -> None:
    """Raise UserError, or warn, if the ids stand for other tokens than those that the model was trained with."""
    ids = tokenizer.get_vocab()
    trained = {token: number for token, number in own.get_vocab().items() if number < size}
    changed = [token for token, number in trained.items() if ids.get(token) != number]
    if changed and required_vocab_size(tokenizer) > size:
        raise _foreign_tokenizer(tokenizer, size, model_args)
    if 2 * len(changed) > len(trained):
        logger.warning(
            "VOCABULARY: %s of the %s tokens of %s have another id, or none, in --tokenizer_name %s: the model's "
            "embeddings are those of other tokens",
            f"{len(changed):,}",
            f"{len(trained):,}",
            model_args.model_name_or_path,
            model_args.tokenizer_name,
        )


def _foreign_tokenizer(tokenizer: PreTrainedTokenizerBase, size: int, model_args: ModelArguments) -> UserError:
    cure = "leave out --tokenizer_name" if model_args.tokenizer_name else "the longer one is for --tokenizer_name"
    return UserError(
        f"{model_args.tokenizer_name or model_args.model_name_or_path}: the tokenizer has "
        f"{required_vocab_size(tokenizer):,} tokens, the model's vocabulary {size:,}, and it is not the model's own "
        f"with tokens added: use the model's "
        f"own ({cure}), or train from scratch with --model_type"
    )


def _without_added_tokens(
    tokenizer: PreTrainedTokenizerBase, size: int, model_args: ModelArguments
) -> PreTrainedTokenizerBase:
    """Return a copy of the tokenizer as it was before tokens were added beyond the model's vocabulary."""
    if not tokenizer.is_fast:
        raise _foreign_tokenizer(tokenizer, size, model_args)
    settings = json.loads(plain_backend(tokenizer).to_str())
    settings["added_tokens"] = [token for token in settings["added_tokens"] if token["id"] < size]
    backend = Tokenizer.from_str(json.dumps(settings))
    if max(backend.get_vocab().values()) >= size:
        raise _foreign_tokenizer(tokenizer, size, model_args)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=tokenizer.unk_token)


def _text_of(tokenizer: PreTrainedTokenizerBase, token: str) -> str:
    """Return the text that a token stands for, without the mark of a word's beginning or continuation."""
    if token in tokenizer.get_added_vocab():
        return token
    return tokenizer.convert_tokens_to_string([token]).strip().removeprefix("##")


@torch.no_grad()
def resize_vocabulary(model: PreTrainedModel, new_tokens: Sequence[NewToken]) -> None:
    """Give the model weights for new tokens, in embeddings, head and biases: the mean of those of their pieces."""
    if not new_tokens:
        return
    size = model.config.vocab_size
    shapes = {name: weights.shape for name, weights in model.named_parameters()}
    with quiet():
        model.resize_token_embeddings(size + len(new_tokens))
    for name, weights in model.named_parameters():
        # Whatever has grown: which weights those are, and in which dimension, depends on the architecture.
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
        "Vocabulary: %s new tokens (%s%s): their weights are the mean of their pieces%s",
        f"{len(texts):,}",
        ", ".join(texts[:LOGGED]),
        ", ..." if len(texts) > LOGGED else "",
        f"; of {unknown:,} without known pieces, the mean of all tokens" if unknown else "",
    )
