"""Score the tokens of texts with a causal language model."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from cloze.data.collators import collate
from cloze.tokenization.templates import Template
from cloze.training.context import padding_for


class Window(NamedTuple):
    """Hold a part of a text as the model's input, and the tokens to score in it.

    Attributes:
        text: index of the text.
        ids: token ids, with the special tokens before them, int64 [length].
        begin: position in the text of the first token to score.
        num_targets: number of tokens to score, the last ones of ``ids``.
    """

    text: int
    ids: np.ndarray
    begin: int
    num_targets: int


def start_of(template: Template) -> tuple[int, ...]:
    """Return the ids before a text: the template's or, as between documents, the end-of-text token."""
    return template.prefix or template.separator


@torch.no_grad()
def log_likelihoods(
    model: PreTrainedModel,
    template: Template,
    texts: Sequence[np.ndarray],
    pad_id: int,
    max_seq_length: int,
    batch_size: int = 8,
) -> list[np.ndarray]:
    """Return the natural logarithm of the probability of each token, given the tokens before it in its text.

    The first token is scored after the special tokens of ``start_of``.

    Args:
        model: a causal language model.
        template: the special tokens around a text and between documents.
        texts: ids of each text without special tokens, [tokens].
        pad_id: id to pad with.
        max_seq_length: length of the model's input in tokens. The tokens of a longer text are scored in windows of
            this length that overlap by half.
        batch_size: number of windows in a batch.

    Returns:
        float64 [tokens] for each text.
    """
    model.eval()
    padding = padding_for(model, max_seq_length)
    windows = [window for text, ids in enumerate(texts) for window in windows_of(text, ids, template, max_seq_length)]
    # Longest first: a batch too large for memory fails at once.
    windows.sort(key=lambda window: -len(window.ids))
    found = [np.empty(len(ids)) for ids in texts]
    for begin in range(0, len(windows), batch_size):
        chosen = windows[begin : begin + batch_size]
        batch = collate([{"input_ids": window.ids} for window in chosen], pad_id, padding)
        logits = model(**{name: values.to(model.device) for name, values in batch.items()}).logits
        for row, window in zip(logits, chosen, strict=True):
            end = len(window.ids)
            targets = torch.from_numpy(window.ids[end - window.num_targets :]).to(logits.device)
            # By row: log-probabilities of a whole batch take as much memory as its logits.
            losses = cross_entropy(row[end - window.num_targets - 1 : end - 1].float(), targets, reduction="none")
            found[window.text][window.begin : window.begin + window.num_targets] = -losses.cpu().numpy()
    return found


def windows_of(text: int, ids: np.ndarray, template: Template, max_seq_length: int) -> list[Window]:
    """Return the windows that score the tokens of a text, [tokens], each once.

    A text that fits is one window; those of a longer one have ``max_seq_length`` tokens. After the first one, half of
    each is context, and only the template's special tokens are before it, as it is not the beginning of the text.
    """
    start, room = start_of(template), max_seq_length - len(template.prefix)
    end = min(len(ids), max_seq_length - len(start))
    windows = [Window(text, np.concatenate([start, ids[:end]]).astype(np.int64), begin=0, num_targets=end)]
    while end < len(ids):
        begin, end = end, min(len(ids), end + room // 2)
        window = np.concatenate([template.prefix, ids[end - room : end]]).astype(np.int64)
        windows.append(Window(text, window, begin, num_targets=end - begin))
    return windows
