"""Check the kernels of a model's attention, and whether batches without padding have an attention mask."""

import logging

import torch
from transformers import PreTrainedModel

from cloze.errors import UserError
from cloze.models.inspection import count_positions
from cloze.models.trials import ValueReads, quiet, trial_copy

logger = logging.getLogger(__name__)

# Most tokens of the trial texts.
LENGTH = 8


def check_attention(model: PreTrainedModel, implementation: str) -> None:
    """Raise UserError if the model does not have an implementation of attention, such as sdpa."""
    name = type(model).__name__
    try:
        model.get_correct_attn_implementation(implementation)
    except ValueError:
        raise UserError(f"--attn_implementation {implementation}: {name} does not have it: drop the flag") from None


@torch.no_grad()
def runs_without_mask(model: PreTrainedModel) -> bool:
    """Return whether batches without padding shall have no attention mask.

    Without it, the outputs of a copy must be equal to the bit, and the model must read fewer values of its tensors. A
    GPU waits at each of them: BERT reads whether its mask is full, to let the attention take a kernel without a mask,
    which torch.compile cannot do. DeBERTa, on the other hand, looks for padding if it gets no mask.
    """
    trial = trial_copy(model).cpu()
    length = min(LENGTH, count_positions(model, model.config) or LENGTH)
    ids = (torch.arange(2 * length) * 7 % model.config.vocab_size).view(2, length)
    try:
        if model.config.pad_token_id is not None:
            # XLM, for one, takes it for padding if it gets no mask; a text may contain it.
            ids[:, -1] = model.config.pad_token_id
        with quiet():
            with ValueReads() as reads_with_mask:
                expected = trial(input_ids=ids, attention_mask=torch.ones_like(ids))
            with ValueReads() as reads:
                found = trial(input_ids=ids)
        tensors = {name: value for name, value in expected.items() if torch.is_tensor(value)}
        equal = all(torch.equal(value, found[name]) for name, value in tensors.items())
        return equal and reads.count < reads_with_mask.count
    except Exception as error:  # models raise errors of any type for a text that they do not expect
        logger.debug("%s does not run on the trial texts: %r", type(model).__name__, error)
        return False
