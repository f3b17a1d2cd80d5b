"""Copy models for trial runs, silence their warnings, and count how often they read values."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
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


class ValueReads(TorchDispatchMode):
    """Count the operations within the context whose result depends on values, such as ``item`` and ``nonzero``.

    A process waits at each of them for its GPU; that can be counted on a CPU, too.

    Attributes:
        count: the number of these operations.
    """

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags))
        return func(*args, **(kwargs or {}))
