"""Continue texts token by token with a causal language model, each text independently of the others."""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from cloze.config.continuation_arguments import ContinuationArguments
from cloze.models.inspection import first_position
from cloze.training.saving import replaced


@torch.no_grad()
def continue_ids(
    model: PreTrainedModel,
    prompts: dict[int, np.ndarray],
    args: ContinuationArguments,
    seed: int,
    pad_id: int,
    end_ids: list[int],
    batch_size: int = 8,
) -> dict[int, np.ndarray]:
    """Return the tokens that follow each prompt, [new tokens], up to an end-of-text token, which is left out.

    Args:
        model: a causal language model.
        prompts: token ids, int64 [tokens], by the number of their row.
        args: number of new tokens, and how each is chosen.
        seed: with the number of the row, determines which tokens are sampled.
        pad_id: id to pad with.
        end_ids: ids of the tokens that end a text.
        batch_size: number of prompts in a batch.
    """
    model.eval()
    # Without position ids, padding on the left could shift positions.
    takes_positions = "position_ids" in signature(model.forward).parameters
    batch_size = batch_size if takes_positions else 1
    config = GenerationConfig(
        max_new_tokens=args.max_new_tokens, do_sample=False, pad_token_id=pad_id, eos_token_id=end_ids
    )
    order = sorted(prompts, key=lambda number: -len(prompts[number]))
    found = {}
    # Any: PreTrainedModel does not declare it.
    generate: Any = model.generate
    # What the checkpoint's own configuration has, such as a penalty of repetitions, would apply too.
    with replaced(model, generation_config=config):
        for begin in range(0, len(order), batch_size):
            numbers = order[begin : begin + batch_size]
            batch = pad_left([prompts[number] for number in numbers], pad_id)
            if takes_positions:
                positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
                batch["position_ids"] = positions + first_position(model)
            width = batch["input_ids"].shape[1]
            choice = [make_sampler(numbers, args, seed, width)] if args.do_sample else []
            output = generate(
                **{name: values.to(model.device) for name, values in batch.items()},
                generation_config=config,
                logits_processor=LogitsProcessorList(choice),
            )
            for number, new in zip(numbers, output[:, width:].cpu().numpy(), strict=True):
                ends = np.flatnonzero(np.isin(new, end_ids))
                found[number] = new[: ends[0]] if len(ends) else new
    return found


def pad_left(prompts: list[np.ndarray], pad_id: int) -> dict[str, torch.Tensor]:
    """Pad prompts on the left to ``{"input_ids", "attention_mask"}``, int64 [batch, length].

    ``[[5, 6, 7], [8]]`` becomes ``input_ids [[5, 6, 7], [0, 0, 8]]`` and ``attention_mask [[1, 1, 1], [0, 0, 1]]``.
    """
    ids = [torch.from_numpy(prompt) for prompt in prompts]
    pad = partial(pad_sequence, batch_first=True, padding_side="left")
    return {
        "input_ids": pad(ids, padding_value=pad_id),
        "attention_mask": pad(list(map(torch.ones_like, ids)), padding_value=0),
    }


def make_sampler(
    rows: list[int], args: ContinuationArguments, seed: int, width: int
) -> Callable[[torch.LongTensor, torch.Tensor], torch.Tensor]:
    """Return a logits processor that leaves one token for each prompt, drawn from (seed, row, number of new tokens).

    ``generate`` itself draws the tokens of all prompts of a batch from one generator.

    Args:
        rows: numbers of the prompts' rows, [batch].
        args: temperature, top_p and top_k.
        seed: of all rows.
        width: length of the padded prompts.
    """
    # In float32, the largest number below 1 is clearly below it: the last token of the vocabulary is always in reach.
    draws = [np.random.default_rng((seed, row)).random(args.max_new_tokens, np.float32) for row in rows]
    uniform = torch.from_numpy(np.stack(draws))
    warpers = LogitsProcessorList()
    if args.temperature is not None:
        warpers.append(TemperatureLogitsWarper(float(args.temperature)))
    if args.top_k is not None:
        warpers.append(TopKLogitsWarper(args.top_k))
    if args.top_p is not None:
        warpers.append(TopPLogitsWarper(args.top_p))

    def sample(ids: torch.LongTensor, logits: torch.Tensor) -> torch.Tensor:
        # On the CPU, sums do not depend on the device, and Apple's has no float64.
        cumulative = warpers(ids, logits).cpu().double().softmax(-1).cumsum(-1)
        thresholds = uniform[:, ids.shape[1] - width, None] * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, thresholds, right=True)
        return torch.full_like(logits, -torch.inf).scatter(1, chosen.to(logits.device), 0.0)

    return sample
