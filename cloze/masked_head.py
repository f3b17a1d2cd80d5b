"""Logits at masked positions only: the head, half of a small model's work, is left out where nothing is predicted."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

logger = logging.getLogger(__name__)


class PositionSelector:
    """Gives a model's forward one more argument, ``masked_positions`` [positions], flat places in [batch * length].

    With it, the logits for masked tokens are [1, positions, vocabulary] instead of [batch, length, vocabulary].
    Without it, and in all that is saved, the model is what it was: the selection is made in hooks, which a wrapping
    by DistributedDataParallel or torch.compile leaves in place.

    Args:
        model: whose forward it is.
        logits: names that the model's output may have for the logits.
        before_head: select what goes into the head; or else, of the logits that come out of it.
    """

    def __init__(self, model: PreTrainedModel, logits: tuple[str, ...], before_head: bool):
        self.names = ("last_hidden_state",) if before_head else logits
        self.positions = None
        model.register_forward_pre_hook(self.take_positions, with_kwargs=True)
        (model.base_model if before_head else model).register_forward_hook(self.select)

    def take_positions(self, model, args, kwargs):
        self.positions = kwargs.pop("masked_positions", None)
        return args, kwargs

    def select(self, module, args, output):
        if self.positions is not None:
            name = next(name for name in self.names if name in output)
            output[name] = output[name].flatten(0, 1).index_select(0, self.positions)[None]
            self.positions = None
        return output


def predict_masked_positions(model: PreTrainedModel, logits: tuple[str, ...]) -> bool:
    """Let the model's forward take ``masked_positions``; see PositionSelector. Whether its head is spared the others.

    It is, if the head treats each position by itself and takes the base model's last hidden state. Rather than from a
    list of architectures, that is seen from the model at hand: with a few positions selected, all it gives has to be
    the same as without. Where it is not, all logits are computed, and those at the positions taken.
    """
    spared = same_with_selection(copy.deepcopy(model), logits)
    PositionSelector(model, logits, before_head=spared)
    if not spared:
        logger.info("%s needs logits at all positions: those at masked ones are taken of them", type(model).__name__)
    return spared


@torch.no_grad()
def same_with_selection(model: PreTrainedModel, logits: tuple[str, ...]) -> bool:
    """Whether the model's outputs for two short texts are the same if positions are selected before its head.

    It should be a copy: short texts make some models, as BigBird, change the way they attend for good.
    """
    PositionSelector(model.eval(), logits, before_head=True)
    ids = (torch.arange(32, device=model.device) * 7 % model.config.vocab_size).view(2, 16)
    positions = torch.tensor([1, 5, 14, 17, 30, 0, 0], device=model.device)
    try:
        with quiet():
            whole, selected = model(input_ids=ids), model(input_ids=ids, masked_positions=positions)
    except Exception as error:  # whatever a model does that has fewer positions than it expects
        logger.debug("With selected positions, %s fails: %r", type(model).__name__, error)
        return False
    for name, value in whole.items():
        if name in logits:
            value = value.flatten(0, 1)[positions][None]
        if torch.is_tensor(value) and not close(value, selected[name]):
            return False
    return True


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether they differ by rounding alone: matrix products of other shapes add up in another order."""
    tolerance = 1e3 * torch.finfo(a.dtype).eps * float(a.abs().max())
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=tolerance)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of transformers."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
