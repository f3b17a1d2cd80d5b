"""Fit a model's weights to another vocabulary: embeddings, head and biases."""

import inspect
import logging
from itertools import accumulate, chain

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from cloze.models.trials import quiet
from cloze.models.vocabulary import Rows

logger = logging.getLogger(__name__)

# Most new tokens to log.
MAX_LOGGED = 5


@torch.no_grad()
def resize_vocabulary(model: PreTrainedModel, rows: Rows | None) -> None:
    """Give the model a row for each token, in embeddings, head and biases: the mean over the rows of its pieces.

    The config's special tokens and the padding index of embeddings follow.
    """
    if rows is None:
        return
    count = len(rows.pieces)
    before = {name: weights.detach() for name, weights in model.named_parameters()}
    padding = {name: module.padding_idx for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    with quiet():
        # Which weights have rows of the vocabulary, and in which dimension, depends on the architecture.
        _resize(model, count + 1 if count == model.config.vocab_size else count)
        dims = {name: _changed_dim(before[name], weights) for name, weights in model.named_parameters()}
        _resize(model, count)
    for name, weights in model.named_parameters():
        dim = dims[name]
        if dim is not None:
            weights.copy_(average_rows(before[name], rows.pieces, dim))
    moved = {pieces[0]: number for number, pieces in enumerate(rows.pieces) if number not in rows.new}
    if rows.replaced:
        _move_special_tokens(model.config, moved)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and dims.get(f"{name}.weight") is not None:
            old = padding[name]
            module.padding_idx = None if old is None else moved.get(old)
    logger.info("Vocabulary: %s", describe_rows(rows))


def _resize(model: PreTrainedModel, count: int) -> None:
    """Resize embeddings, head and biases; spare the default values of new rows, whose covariance takes seconds."""
    # MobileBERT's method has no such argument.
    names = inspect.signature(model.resize_token_embeddings).parameters
    model.resize_token_embeddings(count, **({"mean_resizing": False} if "mean_resizing" in names else {}))


def _changed_dim(before: torch.Tensor, after: torch.Tensor) -> int | None:
    """Return the dimension whose size has changed, None if there is none."""
    return next((dim for dim, size in enumerate(before.shape) if size != after.shape[dim]), None)


def average_rows(weights: torch.Tensor, pieces: list[list[int]], dim: int) -> torch.Tensor:
    """Return weights whose row i in dimension ``dim`` is the mean over the rows ``pieces[i]``.

    Args:
        weights: [..., old vocabulary, ...], of any precision; means are computed in float32.
        pieces: for each new row the numbers of old rows; empty for the mean of all.
        dim: the dimension of the vocabulary.
    """
    first = weights.movedim(dim, 0)
    table = first.reshape(len(first), -1).float()
    lengths = [len(each) for each in pieces]
    numbers = torch.tensor(list(chain.from_iterable(pieces)), dtype=torch.long, device=weights.device)
    begins = torch.tensor(list(accumulate(lengths, initial=0))[:-1], dtype=torch.long, device=weights.device)
    result = nn.functional.embedding_bag(numbers, table, begins, mode="mean")
    result[torch.tensor(lengths, device=weights.device) == 0] = table.mean(0)
    return result.to(weights.dtype).reshape(-1, *first.shape[1:]).movedim(0, dim)


def _move_special_tokens(config: PretrainedConfig, moved: dict[int, int]) -> None:
    """Set the ids of special tokens in a config to their new ids, None if a token is gone."""
    for name, number in config.to_dict().items():
        if name.endswith("_token_id") and isinstance(number, int):
            setattr(config, name, moved.get(number))


def describe_rows(rows: Rows) -> str:
    """Return how many rows are kept or begin as a mean, with the first new tokens if tokens were added."""
    texts = list(rows.new.values())
    unknown = sum(not rows.pieces[number] for number in rows.new)
    if rows.replaced:
        kept, means = len(rows.pieces) - len(texts), len(texts) - unknown
        return (
            f"{len(rows.pieces):,} tokens replace the checkpoint's: {kept:,} keep their weights, {means:,} get the "
            f"mean weights of their pieces, {unknown:,} without known pieces the mean of all tokens"
        )
    first = ", ".join(texts[:MAX_LOGGED]) + ", ..." * (len(texts) > MAX_LOGGED)
    rest = f"; {unknown:,} without known pieces: the mean of all tokens" * (unknown > 0)
    return f"{len(texts):,} new tokens ({first}) get the mean weights of their pieces{rest}"
