"""Compute logits at masked positions only.

With 15 % of the tokens masked, this saves most of the head, half of a small model's work, and most of the last layer's
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

# Longest trial text, in tokens. A trial computes all logits of two such texts.
MAX_TRIAL_LENGTH = 1023
# Module after which each class selects positions; a test compares this with the trial. Classes in which settings change
# the place, such as MobileBERT's use_bottleneck, are left out.
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


# The positions of each thread's calls. torch.compile can trace a thread-local only under a global name.
_CALLS = threading.local()
_NUMBERS = itertools.count()


class SparsePrediction:
    """Add the argument ``masked_positions`` [positions], flat indices in [batch * length], to a model's forward.

    With it, the logits for masked tokens are [1, positions, vocabulary] instead of [batch, length, vocabulary]. Without
    it, and in saved files, the model is unchanged. Forward hooks select the positions; they keep working inside
    DistributedDataParallel and torch.compile. Threads do not see each other's positions.

    Args:
        model: the model.
        logits: possible names of the logits in the model's output.
        place: name of the module whose output [batch, length, width] is reduced to the positions; empty to select from
            the model's logits.
    """

    def __init__(self, model: PreTrainedModel, logits: tuple[str, ...], place: str):
        self._names, self._key = ("last_hidden_state", *logits), f"call_{next(_NUMBERS)}"
        model.register_forward_pre_hook(self._take_positions, with_kwargs=True)
        model.base_model.register_forward_pre_hook(self._use_positions)
        model.get_submodule(place).register_forward_hook(self._select)
        if place not in ("", model.base_model_prefix):
            model.base_model.register_forward_hook(self._keep_for_backward)

    def __setstate__(self, state: dict) -> None:
        # A copied model gets a key of its own.
        self._names, self._key = state["_names"], f"call_{next(_NUMBERS)}"

    def _set(self, given: torch.Tensor | None, positions: torch.Tensor | None) -> None:
        """Store the positions of this thread's call: as given to the model, and as passed on to its base model."""
        setattr(_CALLS, self._key, (given, positions))

    def _get(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        return getattr(_CALLS, self._key, (None, None))

    def _take_positions(self, model, args, kwargs):
        self._set(kwargs.pop("masked_positions", None), None)
        return args, kwargs

    def _use_positions(self, base_model, args):
        # If only the base model is called, there are no positions.
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
        """Set the positions again before backward recomputes the layer that selects them (gradient checkpointing).

        Other forwards may have run since, and backward may run in autograd's thread. A gradient hook of the hidden
        states runs in that thread, before backward reaches the layer.
        """
        _, positions = self._get()
        if output[0].requires_grad and not torch.compiler.is_compiling():
            output[0].register_hook(lambda gradient: self._set(None, positions))


def _selected(values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return values.flatten(0, 1).index_select(0, positions)[None]


def predict_masked_positions(model: PreTrainedModel, logits: tuple[str, ...], max_seq_length: int) -> str:
    """Let the model's forward take ``masked_positions``, and return the place of the selection (SparsePrediction).

    The place is the earliest module after which the model treats each position on its own. It is known for common
    architectures, and found by trial for others: outputs with and without selection must be equal. Without such a
    place, the model computes all logits, and the masked positions are selected from them.
    """
    place = _known_place(model)
    if place is None:
        place = _find_place(model, logits, max_seq_length)
    if not place:
        logger.info("%s needs logits at all positions, not only at masked ones", type(model).__name__)
    SparsePrediction(model, logits, place)
    return place


def _known_place(model: PreTrainedModel) -> str | None:
    """Return the place from KNOWN_PLACES, or None if custom code or settings could change it."""
    place = KNOWN_PLACES.get(type(model).__name__)
    if place is None or not type(model).__module__.startswith("transformers.models."):
        return None
    layers = model.config.num_hidden_layers
    # A first layer may differ, as with DeBERTa's convolution; feed-forward chunks must divide the positions.
    if layers == 1 or getattr(model.config, "chunk_size_feed_forward", 0):
        return None
    return place.format(last=layers - 1)


def _find_place(model: PreTrainedModel, logits: tuple[str, ...], max_seq_length: int) -> str:
    """Return the earliest place that works in a trial, or an empty string for the model's logits."""
    # Converted to float32 once: further copies share its weights.
    trial = trial_copy(model)
    # Odd lengths, as some models pad internally; a long text first, as some use another attention for it.
    longest = (min(max_seq_length, MAX_TRIAL_LENGTH) - 1) | 1
    lengths = (longest, min(longest, 15))
    return next((place for place in _places(model) if _same_if_selected(trial, logits, place, lengths)), "")


def _places(model: PreTrainedModel) -> Iterator[str]:
    """Yield the places to try, earliest first: before the last layer's feed-forward, and before the head."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if lists:
        name, layers = max(lists, key=lambda each: len(each[1]))
        # Their output includes the residual connection: in BERT and its relatives, and in DistilBERT.
        found = [child for child, _ in layers[-1].named_children() if child in ("attention", "sa_layer_norm")]
        yield from (f"{name}.{len(layers) - 1}.{child}" for child in reversed(found))
    yield model.base_model_prefix


def _same_if_selected(model: PreTrainedModel, logits: tuple[str, ...], place: str, lengths: tuple[int, ...]) -> bool:
    """Return whether selection at this place leaves the outputs for texts of these lengths unchanged."""
    trial = trial_copy(model)
    SparsePrediction(trial, logits, place)
    try:
        with quiet():
            return all(_same_outputs(trial, logits, length) for length in lengths)
    except Exception as error:  # models raise errors of any type for a wrong number of positions
        logger.debug("With positions selected in %s, %s fails: %r", place, type(model).__name__, error)
        return False


@torch.no_grad()
def _same_outputs(model: PreTrainedModel, logits: tuple[str, ...], length: int) -> bool:
    """Return whether two texts give the same outputs with and without positions."""
    ids = (torch.arange(2 * length, device=model.device) * 7 % model.config.vocab_size).view(2, length)
    # More positions than a text has tokens.
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
    """Return whether two tensors are equal up to rounding; matrix products of other shapes sum in another order."""
    tolerance = 1e3 * torch.finfo(a.dtype).eps * float(a.abs().max())
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=tolerance)
