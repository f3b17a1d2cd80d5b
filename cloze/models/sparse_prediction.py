"""Logits at masked positions only: what nothing is predicted from is not computed.

With 15 % of the tokens masked, that spares most of the head, half of a small model's work, and of the last layer's
feed-forward.
"""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

logger = logging.getLogger(__name__)

# Tokens in the longest text that selecting is tried with; all logits of two such texts are computed.
LONGEST_TRIAL = 1023


class PositionSelector:
    """Gives a model's forward one more argument, ``masked_positions`` [positions], flat places in [batch * length].

    With it, the logits for masked tokens are [1, positions, vocabulary] instead of [batch, length, vocabulary].
    Without it, and in all that is saved, the model is what it was: the selection is made in hooks, which a wrapping
    by DistributedDataParallel or torch.compile leaves in place.

    Args:
        model: whose forward it is.
        logits: names that the model's output may have for the logits.
        place: name of the module in whose output [batch, length, width] the positions are selected; empty for the
            logits of the model itself.
    """

    def __init__(self, model: PreTrainedModel, logits: tuple[str, ...], place: str):
        self.names = ("last_hidden_state", *logits)
        self.given = self.positions = None
        self.hooks = [
            model.register_forward_pre_hook(self.take_positions, with_kwargs=True),
            model.base_model.register_forward_pre_hook(self.use_positions),
            model.get_submodule(place).register_forward_hook(self.select),
        ]

    def take_positions(self, model, args, kwargs):
        self.given = kwargs.pop("masked_positions", None)
        return args, kwargs

    def use_positions(self, base_model, args):
        # Kept for the backward, in which a layer under gradient checkpointing runs again; but the base model, when it
        # is called alone, is given none.
        self.positions, self.given = self.given, None

    def select(self, module, args, output):
        if self.positions is None:
            return output
        if torch.is_tensor(output):
            return self.selected(output)
        if isinstance(output, tuple):
            return self.selected(output[0]), *output[1:]
        name = next(name for name in self.names if name in output)
        output[name] = self.selected(output[name])
        return output

    def selected(self, values: torch.Tensor) -> torch.Tensor:
        return values.flatten(0, 1).index_select(0, self.positions)[None]

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()


def predict_masked_positions(model: PreTrainedModel, logits: tuple[str, ...], max_seq_length: int) -> str:
    """Let the model's forward take ``masked_positions``, and return the place where it selects; see PositionSelector.

    That is the earliest from which on the model treats each position by itself. Rather than from a list of
    architectures, it is seen from the model at hand: with positions selected, all it gives has to be the same as
    without. Where there is no such place, all logits are computed, and those at the positions taken.
    """
    # A copy, as short texts make some models, as BigBird, change the way they attend for good.
    trial = copy.deepcopy(model).float().eval()
    # Odd lengths, which some models pad inside, and a long one first, to which some attend in another way.
    longest = (min(max_seq_length, LONGEST_TRIAL) - 1) | 1
    lengths = (longest, min(longest, 15))
    place = next((place for place in places(model) if same_if_selected(trial, logits, place, lengths)), "")
    if not place:
        logger.info("%s needs logits at all positions: those at masked ones are taken of them", type(model).__name__)
    PositionSelector(model, logits, place)
    return place


def places(model: PreTrainedModel) -> Iterator[str]:
    """Where to try, the earliest first: before the feed-forward of the last layer, and before the head."""
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if layers:
        longest = max(layers, key=lambda name: len(model.get_submodule(name)))
        last = model.get_submodule(longest)[-1]
        # What comes out of it has the residual added: of BERT and its kin, and of DistilBERT.
        found = [name for name, _ in last.named_children() if name in ("attention", "sa_layer_norm")]
        yield from (f"{longest}.{len(model.get_submodule(longest)) - 1}.{name}" for name in reversed(found))
    yield model.base_model_prefix


def same_if_selected(model: PreTrainedModel, logits: tuple[str, ...], place: str, lengths: tuple[int, ...]) -> bool:
    """Whether the model's outputs for texts of these lengths are the same if positions are selected in this place."""
    selector = PositionSelector(model, logits, place)
    try:
        with quiet():
            return all(same_outputs(model, logits, length) for length in lengths)
    except Exception as error:  # whatever a model does that has other positions than it expects
        logger.debug("With positions selected in %s, %s fails: %r", place, type(model).__name__, error)
        return False
    finally:
        selector.remove()


@torch.no_grad()
def same_outputs(model: PreTrainedModel, logits: tuple[str, ...], length: int) -> bool:
    """Whether two texts give the same with positions and without; these are more than a text has."""
    ids = (torch.arange(2 * length, device=model.device) * 7 % model.config.vocab_size).view(2, length)
    positions = torch.arange(1, 2 * length, 2, device=model.device)
    positions = torch.cat([positions, positions.new_zeros(3)])
    whole, selected = model(input_ids=ids), model(input_ids=ids, masked_positions=positions)
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
