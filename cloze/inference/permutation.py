"""Predict spans of held-out examples, to show at the end of a run what a permutation language model has learned."""

from collections.abc import Sequence

import numpy as np
import torch

from cloze.data.collators import IGNORED
from cloze.inference.fill_mask import MASK
from cloze.inference.guesses import CONTEXT
from cloze.inference.predictions import drop_cut_word, within_budget
from cloze.objectives.permutation import PREDICTED_TOKENS
from cloze.training.trainer import PretrainingTrainer

# Spans to show, of one example each.
MAX_SPANS = 5


@torch.no_grad()
def guess_spans(trainer: PretrainingTrainer, samples: Sequence[dict]) -> list[str]:
    """Return the predicted and the true tokens of a span in each of a few examples, with the text around it."""
    model, tokenizer = trainer.model.eval(), trainer.processing_class
    lines: list[str] = []
    chosen = within_budget(samples)
    for example in chosen[:: max(1, len(chosen) // MAX_SPANS)][:MAX_SPANS]:
        # Without its epoch, so that a training example is treated as in an evaluation.
        example = {name: value for name, value in example.items() if name != "epoch"}
        batch = trainer.data_collator([example])
        inputs = {name: batch[name].to(model.device) for name in batch.keys() - {"labels", "characters"}}
        guesses = PREDICTED_TOKENS.logits_of(model(**inputs))[0].argmax(-1).cpu().numpy()
        labels = batch["labels"][0].numpy()
        places = np.flatnonzero(labels != IGNORED)
        if not len(places):
            continue
        # The middle span has text on both sides.
        spans = np.split(np.arange(len(places)), np.flatnonzero(np.diff(places) > 1) + 1)
        span = spans[len(spans) // 2]
        first, last = int(places[span[0]]), int(places[span[-1]]) + 1
        hidden = batch["input_ids"][0].numpy()
        borders = np.flatnonzero(np.isin(hidden, tokenizer.all_special_ids))
        start = max(first - CONTEXT, int(borders[borders < first].max(initial=-1)) + 1)
        end = min(last + CONTEXT, int(borders[borders >= last].min(initial=len(hidden))))
        before, after, guess, truth = (
            " ".join(str(tokenizer.decode(ids.tolist())).split())
            for ids in (hidden[start:first], hidden[last:end], guesses[span], labels[first:last])
        )
        lines.append(f"... {drop_cut_word(before)} {MASK} {after} ...\n    {guess}   (the text has: {truth})")
    return lines
