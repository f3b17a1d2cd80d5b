"""Models to try things on: copies that share the weights, run without a warning."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging


def trial_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy in float32 and evaluation mode, which takes no memory for weights that are float32 already.

    A copy, as short texts make some models, as BigBird, change the way they attend for good. Its weights need no
    gradients: torch's counter of operations fails on one that a layer takes as input, as in DeBERTa.
    """
    shared = {id(weights): nn.Parameter(weights.detach(), requires_grad=False) for weights in model.parameters()}
    return copy.deepcopy(model, shared).float().eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of transformers."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
