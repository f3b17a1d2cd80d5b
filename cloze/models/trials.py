"""Copy models for trial runs, and silence their warnings."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging


def trial_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy in float32 and evaluation mode that shares all weights that are already float32.

    BigBird, for one, switches to another attention for good after a short text; only the copy does. The copy's weights
    need no gradients: torch's FLOP counter fails on a weight with gradients that is a layer's input, as in DeBERTa.
    """
    shared = {id(weights): nn.Parameter(weights.detach(), requires_grad=False) for weights in model.parameters()}
    return copy.deepcopy(model, shared).float().eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of transformers within the context."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
