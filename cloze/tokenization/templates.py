"""Special tokens around one text or two."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Template:
    """The special tokens around an example, and the one between two documents, as BERT's [CLS] ... [SEP]."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    separator: tuple[int, ...]

    @property
    def num_special(self) -> int:
        return len(self.prefix) + len(self.suffix)

    def room(self, max_seq_length: int) -> int:
        """Tokens of text that fit into an example."""
        return max_seq_length - self.num_special

    def example(self, pieces: list[np.ndarray], number: int) -> dict:
        return {"input_ids": np.concatenate([self.prefix, *pieces, self.suffix]).astype(np.int64), "example": number}

    def word_starts(self, pieces: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.ones(len(self.prefix)), *pieces, np.ones(len(self.suffix))]).astype(bool)


@dataclass(frozen=True)
class PairTemplate:
    """The special tokens around two texts, as BERT's [CLS] A [SEP] B [SEP]; those up to the middle are of type 0."""

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]

    @property
    def num_special(self) -> int:
        return len(self.prefix) + len(self.middle) + len(self.suffix)

    def example(self, a: np.ndarray, b: np.ndarray, label: int, number: int) -> dict:
        """The pair of texts with these ids."""
        first = len(self.prefix) + len(a) + len(self.middle)
        ids = np.concatenate([self.prefix, a, self.middle, b, self.suffix]).astype(np.int64)
        types = (np.arange(len(ids)) >= first).astype(np.int64)
        return {"input_ids": ids, "token_type_ids": types, "next_sentence_label": int(label), "example": int(number)}

    def word_starts(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        special = (np.ones(len(part)) for part in (self.prefix, self.middle, self.suffix))
        return np.concatenate([next(special), a, next(special), b, next(special)]).astype(bool)
