"""Predict spans of held-out examples, to show at the end of a run what a permutation language model has learned."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from cloze.data.collators import IGNORED
from cloze.inference.fill_mask import MASK
from cloze.inference.guesses import CONTEXT
from cloze.inference.predictions import within_budget
from cloze.objectives.permutation import PREDICTED_TOKENS
from cloze.training.trainer import PretrainingTrainer

# Spans to show, of one example each.
MAX_SPANS = 5


@torch.no_grad()
def guess_spans(trainer: PretrainingTrainer, samples: Sequence[dict]) -> list[str]:
    """Return the predicted and the true tokens of a span in each of a few examples, with the text around it."""
    model, tokenizer = trainer.model.eval(), trainer.processing_class
    chosen = within_budget(samples)
    lines = []
    for example in chosen[:: max(1, len(chosen) // MAX_SPANS)][:MAX_SPANS]:
        batch = trainer.data_collator([example])
        inputs = {name: batch[name].to(model.device) for name in batch.keys() - {"labels", "characters"}}
        guesses = PREDICTED_TOKENS.logits_of(model(**inputs))[0].argmax(-1).cpu().numpy()
        (hidden,), (labels,) = batch["input_ids"].numpy(), batch["labels"].numpy()
        places = np.flatnonzero(labels != IGNORED)
        if len(places):
            # The middle span has text on both sides.
            spans = np.split(np.arange(len(places)), np.flatnonzero(np.diff(places) > 1) + 1)
            span = spans[len(spans) // 2]
            lines.append(show_span(tokenizer, hidden, labels, places[span], guesses[span]))
    return lines


def show_span(
    tokenizer: PreTrainedTokenizerBase, hidden: np.ndarray, labels: np.ndarray, places: np.ndarray, guesses: np.ndarray
) -> str:
    """Return the predicted and the true tokens of a span, below the text up to the next hidden or special token.

    Args:
        tokenizer: of the model.
        hidden: ids with the tokens to predict masked, [length].
        labels: the true ids of these, [length].
        places: positions of the span, [tokens].
        guesses: predicted ids, [tokens].
    """
    borders = np.flatnonzero(np.isin(hidden, tokenizer.all_special_ids))
    first, last = int(places[0]), int(places[-1]) + 1
    border_before = int(borders[borders < first].max(initial=-1)) + 1
    border_after = int(borders[borders >= last].min(initial=len(hidden)))
    start, end = max(first - CONTEXT, border_before), min(last + CONTEXT, border_after)
    before, after, guess, truth = (
        " ".join(str(tokenizer.decode(ids.tolist())).split())
        for ids in (hidden[start:first], hidden[last:end], guesses, labels[places])
    )
    # A document ends at its separator, the other borders are within it.
    starts = border_before == start and (start == 0 or hidden[start - 1] == tokenizer.sep_token_id)
    ends = border_after == end and hidden[min(end, len(hidden) - 1)] == tokenizer.sep_token_id
    text = " ".join(filter(None, ("" if starts else "...", before, MASK, after, "" if ends else "...")))
    return f"{text}\n    {guess}   (the text has: {truth})"
