"""Find out by trial whether a model attends to later tokens."""

import torch
from transformers import PreTrainedModel

from cloze.errors import UserError
from cloze.models.inspection import count_positions
from cloze.models.trials import quiet, trial_copy

# Most tokens of the trial text; after the middle, the two texts differ.
LENGTH = 16
# Largest difference of logits by rounding, as a share of the largest logit.
TOLERANCE = 1e-4


def check_causal(model: PreTrainedModel) -> None:
    """Raise UserError if logits depend on later tokens: the model would see the tokens that it predicts."""
    if attends_to_later_tokens(model):
        raise UserError(
            f"{type(model).__name__} attends to later tokens, which would be its targets: use a decoder such as gpt2"
        )


@torch.no_grad()
def attends_to_later_tokens(model: PreTrainedModel) -> bool:
    """Return whether changing the second half of a text changes the logits of its first half, in a copy on the CPU."""
    trial = trial_copy(model).cpu()
    length = min(LENGTH, count_positions(model, model.config) or LENGTH)
    ids = torch.arange(length).repeat(2, 1) * 7
    ids[1, length // 2 :] += 1
    with quiet():
        one, two = trial(input_ids=ids % model.config.vocab_size).logits[:, : length // 2]
    return not torch.allclose(one, two, rtol=0, atol=TOLERANCE * float(one.abs().max()))
