"""Guess hidden words of held-out examples, to show at the end of a run what the model has learned."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cloze.inference.fill_mask import MASK
from cloze.inference.predictions import drop_cut_word, surest, within_budget
from cloze.objectives.metrics import MASKED_TOKENS

# Tokens of context shown on each side of a hidden word.
CONTEXT = 12
# Mistakes shown if no guess is right.
MAX_GUESSES = 5


@torch.no_grad()
def guess_words(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[dict], num_right: int, num_wrong: int
) -> tuple[list[str], list[str]]:
    """Return the words that the model guesses right and wrong with the highest probability, each in its context.

    The model sees each example once, with some of its rarer words hidden. These are so far apart that the context of
    one contains no other. A word is shown once. If no guess is right, ``MAX_GUESSES`` mistakes are returned instead.
    """
    model.eval()
    samples = within_budget(examples)
    guesses = []
    for example, positions in zip(samples, words_to_hide(tokenizer, samples), strict=True):
        if not positions:
            continue
        hidden = example["input_ids"].copy()
        hidden[positions] = tokenizer.mask_token_id
        inputs = {"input_ids": hidden} | {name: example[name] for name in ("token_type_ids",) if name in example}
        batch = {name: torch.tensor(values, device=model.device)[None] for name, values in inputs.items()}
        best = MASKED_TOKENS.logits_of(model(**batch))[0, positions].float().softmax(-1).topk(3)
        rows = zip(positions, best.indices.tolist(), best.values.tolist(), strict=True)
        guesses += [WordGuess.of(tokenizer, example["input_ids"], hidden, *row) for row in rows]
    right = surest([guess for guess in guesses if guess.is_right], num_right)
    # A guess that is not a word says little: show it only if there is no other.
    wrong = [guess for guess in guesses if not guess.is_right]
    wrong = [guess for guess in wrong if guess.is_word] or wrong
    return [guess.text for guess in right], [guess.text for guess in surest(wrong, num_wrong if right else MAX_GUESSES)]


class WordGuess(NamedTuple):
    """Hold a model's best guess for a hidden word.

    Attributes:
        probability: of the best guess.
        truth: the hidden word.
        is_right: whether the best guess is the hidden token.
        is_word: whether the best guess is a word, no punctuation or part of a word.
        text: the context, the guesses and the word, to show.
    """

    probability: float
    truth: str
    is_right: bool
    is_word: bool
    text: str

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        ids: np.ndarray,
        hidden: np.ndarray,
        position: int,
        tokens: list[int],
        probabilities: list[float],
    ) -> "WordGuess":
        """Take an example's tokens [length], the same with words hidden, and the best tokens at a position."""
        truth, *words = (str(tokenizer.decode([token])).strip() for token in (ids[position], *tokens))
        # Only of the word's own document, between two separators.
        separators = set(tokenizer.all_special_ids) - {tokenizer.mask_token_id, tokenizer.unk_token_id}
        borders = np.flatnonzero(np.isin(hidden, list(separators)))
        first = int(borders[borders < position].max(initial=-1)) + 1
        last = int(borders[borders > position].min(initial=len(hidden)))
        start, end = max(position - CONTEXT, first), min(position + CONTEXT + 1, last)
        text = str(tokenizer.decode(hidden[start:end].tolist())).replace(str(tokenizer.mask_token), f" {MASK}")
        # The context of byte-level tokens may begin or end within a character.
        text = drop_cut_word(" ".join(text.split()).strip("\ufffd"))
        text = f"{'... ' if start > first else ''}{text}{' ...' if end < last else ''}"
        shares = ", ".join(f"{word} {share:.0%}" for word, share in zip(words, probabilities, strict=True))
        text = f"{text}\n    {shares}   (the text has: {truth})"
        return cls(probabilities[0], truth, tokens[0] == ids[position], words[0].isalpha(), text)


def words_to_hide(tokenizer: PreTrainedTokenizerBase, examples: Sequence[dict]) -> list[list[int]]:
    """Return positions of words in each example, more than ``CONTEXT`` tokens apart, ascending.

    They are among the rarer half of the examples' words, the rarest first: frequent words show little of the subject.
    """
    counts = np.bincount(np.concatenate([example["input_ids"] for example in examples]))
    words = [
        [position for position in range(1, len(ids) - 1) if is_word(tokenizer, ids, position)]
        for ids in (example["input_ids"] for example in examples)
    ]
    frequencies = [counts[example["input_ids"][positions]] for example, positions in zip(examples, words, strict=True)]
    median = np.median(np.concatenate(frequencies)) if any(words) else 0
    hidden: list[list[int]] = []
    for positions, counted in zip(words, frequencies, strict=True):
        chosen: list[int] = []
        for count, position in sorted(zip(counted, positions, strict=True)):
            if count <= median and all(abs(position - other) > CONTEXT for other in chosen):
                chosen.append(position)
        hidden.append(sorted(chosen))
    return hidden


def is_word(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray, position: int) -> bool:
    """Return whether a token is a word, not too short, and not part of a longer one."""
    spans = (position - 1, position + 1), (position, position + 1), (position, position + 2)
    before, word, after = (str(tokenizer.decode(ids[start:stop])).strip() for start, stop in spans)
    # In scripts with an alphabet the shortest words say little.
    long_enough = word.isalpha() and (len(word) > 3 or not word.isascii())
    return (
        long_enough and ids[position] not in tokenizer.all_special_ids and not before.isalpha() and not after.isalpha()
    )
