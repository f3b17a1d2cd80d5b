"""Compute logits at masked positions only: what nothing is predicted from is left out.

With 15 % of the tokens masked, that spares most of the head, half of a small model's work, and of the last layer's
feed-forward.
"""

import itertools
import logging
import threading
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

from cloze.models.trials import quiet, trial_copy

logger = logging.getLogger(__name__)

# Tokens in the longest text that selecting is tried with; all logits of two such texts are computed.
LONGEST_TRIAL = 1023
# Where models of transformers select, by their class; a test compares it with the trial. Classes of which settings
# change it, as MobileBERT's use_bottleneck, are left out.
KNOWN_PLACES = {
    "AlbertForMaskedLM": "albert",
    "AlbertForPreTraining": "albert",
    "BertForMaskedLM": "bert.encoder.layer.{last}.attention",
    "BertForPreTraining": "bert",
    "CamembertForMaskedLM": "roberta.encoder.layer.{last}.attention",
    "DebertaV2ForMaskedLM": "deberta.encoder.layer.{last}.attention",
    "DistilBertForMaskedLM": "distilbert.transformer.layer.{last}.sa_layer_norm",
    "ElectraForMaskedLM": "electra.encoder.layer.{last}.attention",
    "MPNetForMaskedLM": "mpnet.encoder.layer.{last}.attention",
    "ModernBertForMaskedLM": "model",
    "RobertaForMaskedLM": "roberta.encoder.layer.{last}.attention",
    "XLMRobertaForMaskedLM": "roberta.encoder.layer.{last}.attention",
}


# The positions of each thread's calls. Reached from anywhere else than a global name, torch.compile cannot trace it.
_CALLS = threading.local()
_NUMBERS = itertools.count()


class SparsePrediction:
    """Give a model's forward one more argument, ``masked_positions`` [positions], flat indices in [batch * length].

    With it, the logits for masked tokens are [1, positions, vocabulary] instead of [batch, length, vocabulary].
    Without it, and in all that is saved, the model is unchanged: the selection is made in hooks, which a wrapping by
    DistributedDataParallel or torch.compile leaves in place. Calls in several threads don't see each other's positions.

    Args:
        model: whose forward it is.
        logits: names that the model's output may have for the logits.
        place: name of the module in whose output [batch, length, width] the positions are selected; empty for the
            logits of the model itself.
    """

    def __init__(self, model: PreTrainedModel, logits: tuple[str, ...], place: str):
        self._names, self._key = ("last_hidden_state", *logits), f"call_{next(_NUMBERS)}"
        model.register_forward_pre_hook(self._take_positions, with_kwargs=True)
        model.base_model.register_forward_pre_hook(self._use_positions)
        model.get_submodule(place).register_forward_hook(self._select)
        if place not in ("", model.base_model_prefix):
            model.base_model.register_forward_hook(self._keep_for_backward)

    def __setstate__(self, state: dict) -> None:
        # A copy of the model has calls of its own.
        self._names, self._key = state["_names"], f"call_{next(_NUMBERS)}"

    def _set(self, given: torch.Tensor | None, positions: torch.Tensor | None) -> None:
        """Set the positions given to the model, and those given to its base model, for this thread's call."""
        setattr(_CALLS, self._key, (given, positions))

    def _get(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        return getattr(_CALLS, self._key, (None, None))

    def _take_positions(self, model, args, kwargs):
        self._set(kwargs.pop("masked_positions", None), None)
        return args, kwargs

    def _use_positions(self, base_model, args):
        # The base model, when it is called alone, is given none.
        given, _ = self._get()
        self._set(None, given)

    def _select(self, module, args, output):
        _, positions = self._get()
        if positions is None:
            return output
        if torch.is_tensor(output):
            return _selected(output, positions)
        if isinstance(output, tuple):
            return _selected(output[0], positions), *output[1:]
        name = next(name for name in self._names if name in output)
        output[name] = _selected(output[name], positions)
        return output

    def _keep_for_backward(self, base_model, args, output):
        """Set the positions again before a backward recomputes the layer that selects them (gradient checkpointing).

        They travel with the graph, as other forwards may have run since, and as the backward may run in autograd's
        thread: a hook of the hidden states' gradient runs in that thread, before the layers'.
        """
        _, positions = self._get()
        if output[0].requires_grad and not torch.compiler.is_compiling():
            output[0].register_hook(lambda gradient: self._set(None, positions))


def _selected(values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return values.flatten(0, 1).index_select(0, positions)[None]


def predict_masked_positions(model: PreTrainedModel, logits: tuple[str, ...], max_seq_length: int) -> str:
    """Let the model's forward take ``masked_positions``, and return the place where it selects; see SparsePrediction.

    That is the earliest from which on the model treats each position by itself. It is known for the most frequent
    architectures; of others, it is seen from the model at hand: with positions selected, all it gives has to be the
    same as without. Where there is no such place, all logits are computed, and those at the positions taken.
    """
    place = _known_place(model)
    if place is None:
        place = _find_place(model, logits, max_seq_length)
    if not place:
        logger.info("%s needs logits at all positions: those at masked ones are taken of them", type(model).__name__)
    SparsePrediction(model, logits, place)
    return place


def _known_place(model: PreTrainedModel) -> str | None:
    """Return the place of KNOWN_PLACES; None where the model's own code or its settings could change it."""
    place = KNOWN_PLACES.get(type(model).__name__)
    if place is None or not type(model).__module__.startswith("transformers.models."):
        return None
    layers = model.config.num_hidden_layers
    # A single layer may do what others don't, as DeBERTa's first has a convolution; chunks must divide the positions.
    if layers == 1 or getattr(model.config, "chunk_size_feed_forward", 0):
        return None
    return place.format(last=layers - 1)


def _find_place(model: PreTrainedModel, logits: tuple[str, ...], max_seq_length: int) -> str:
    """Return the earliest place that a trial finds, or none for the logits of the model itself."""
    # Once in float32: the copies of it share its weights.
    trial = trial_copy(model)
    # Odd lengths, which some models pad inside, and a long one first, to which some attend in another way.
    longest = (min(max_seq_length, LONGEST_TRIAL) - 1) | 1
    lengths = (longest, min(longest, 15))
    return next((place for place in _places(model) if _same_if_selected(trial, logits, place, lengths)), "")


def _places(model: PreTrainedModel) -> Iterator[str]:
    """Yield where to try, the earliest first: before the feed-forward of the last layer, and before the head."""
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if layers:
        longest = max(layers, key=lambda name: len(model.get_submodule(name)))
        last = model.get_submodule(longest)[-1]
        # What comes out of it has the residual added: of BERT and its kin, and of DistilBERT.
        found = [name for name, _ in last.named_children() if name in ("attention", "sa_layer_norm")]
        yield from (f"{longest}.{len(model.get_submodule(longest)) - 1}.{name}" for name in reversed(found))
    yield model.base_model_prefix


def _same_if_selected(model: PreTrainedModel, logits: tuple[str, ...], place: str, lengths: tuple[int, ...]) -> bool:
    """Return whether the model's outputs for texts of these lengths stay the same if this place selects positions."""
    trial = trial_copy(model)
    SparsePrediction(trial, logits, place)
    try:
        with quiet():
            return all(_same_outputs(trial, logits, length) for length in lengths)
    except Exception as error:  # whatever a model does that has other positions than it expects
        logger.debug("With positions selected in %s, %s fails: %r", place, type(model).__name__, error)
        return False


@torch.no_grad()
def _same_outputs(model: PreTrainedModel, logits: tuple[str, ...], length: int) -> bool:
    """Return whether two texts give the same with positions and without; these are more than a text has."""
    ids = (torch.arange(2 * length, device=model.device) * 7 % model.config.vocab_size).view(2, length)
    positions = torch.arange(1, 2 * length, 2, device=model.device)
    positions = torch.cat([positions, positions.new_zeros(3)])
    whole, selected = model(input_ids=ids), model(input_ids=ids, masked_positions=positions)
    for name, value in whole.items():
        if name in logits:
            value = value.flatten(0, 1)[positions][None]
        if torch.is_tensor(value) and not _close(value, selected[name]):
            return False
    return True


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether they differ by rounding alone: matrix products of other shapes add up in another order."""
    tolerance = 1e3 * torch.finfo(a.dtype).eps * float(a.abs().max())
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=tolerance)
