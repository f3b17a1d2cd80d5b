"""Add a tokenizer's special tokens to one text or two."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerBase

from cloze.errors import UserError
from cloze.tokenization.properties import plain_backend

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Template:
    """Hold the ids of the special tokens around an example, such as BERT's [CLS] ... [SEP], and between documents."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    separator: tuple[int, ...]

    @property
    def num_special(self) -> int:
        """Count the special tokens around an example."""
        return len(self.prefix) + len(self.suffix)

    def max_tokens(self, max_seq_length: int) -> int:
        """Return how many tokens of text fit into an example."""
        return max_seq_length - self.num_special

    def example(self, pieces: list[np.ndarray], number: int) -> dict:
        """Return the example with this number: the pieces' ids, each [tokens], with special tokens around them."""
        return {"input_ids": np.concatenate([self.prefix, *pieces, self.suffix]).astype(np.int64), "example": number}

    def word_starts(self, pieces: list[np.ndarray]) -> np.ndarray:
        """Return whether a word starts at each token of the example, [tokens]; each special token is a word."""
        return np.concatenate([np.ones(len(self.prefix)), *pieces, np.ones(len(self.suffix))]).astype(bool)

    def positions(self, pieces: Sequence[range | np.ndarray]) -> np.ndarray:
        """Return the position of each token of the example in its corpus, -1 for special tokens, int64 [tokens]."""
        special = (-np.ones(len(part), np.int64) for part in (self.prefix, self.suffix))
        return np.concatenate([next(special), *map(_as_array, pieces), next(special)])


@dataclass(frozen=True)
class PairTemplate:
    """Hold the special tokens around two texts, such as BERT's [CLS] A [SEP] B [SEP]; token types are 1 from B on."""

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]

    @property
    def num_special(self) -> int:
        """Count the special tokens of a pair."""
        return len(self.prefix) + len(self.middle) + len(self.suffix)

    def example(self, a: np.ndarray, b: np.ndarray, label: int, number: int) -> dict:
        """Return the example of two texts with ids ``a`` and ``b``, each [tokens]."""
        first = len(self.prefix) + len(a) + len(self.middle)
        ids = np.concatenate([self.prefix, a, self.middle, b, self.suffix]).astype(np.int64)
        types = (np.arange(len(ids)) >= first).astype(np.int64)
        return {"input_ids": ids, "token_type_ids": types, "next_sentence_label": int(label), "example": int(number)}

    def word_starts(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return whether a word starts at each token of the pair, [tokens]; each special token is a word."""
        special = (np.ones(len(part)) for part in (self.prefix, self.middle, self.suffix))
        return np.concatenate([next(special), a, next(special), b, next(special)]).astype(bool)

    def positions(self, a: range, b: range) -> np.ndarray:
        """Return the position of each token of the pair in its corpus, -1 for special tokens, int64 [tokens]."""
        special = (-np.ones(len(part), np.int64) for part in (self.prefix, self.middle, self.suffix))
        return np.concatenate([next(special), _as_array(a), next(special), _as_array(b), next(special)])


def _as_array(positions: range | np.ndarray) -> np.ndarray:
    """Return positions as an array; numpy converts a range one by one."""
    return np.arange(positions.start, positions.stop) if isinstance(positions, range) else positions


# Families with pairs <s> A </s></s> B </s>, all of type 0; other families have [CLS] A [SEP] B [SEP].
DOUBLE_SEPARATOR_TYPES = (
    "camembert", "data2vec-text", "ibert", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta",
    "xlm-roberta-xl", "xmod",
)  # fmt: skip


def ensure_template(tokenizer: PreTrainedTokenizerBase, model_type: str) -> None:
    """Add the special tokens of the model's family to a tokenizer that adds none, also for when it is saved.

    Raises UserError if its vocabulary has no such tokens.
    """
    prefix, suffix = single = _special_tokens_around(tokenizer, 1)
    if any(single) and any(_special_tokens_around(tokenizer, 2)):
        return
    name = type(tokenizer).__name__
    if not any(single):
        tokens = [tokenizer.cls_token or tokenizer.bos_token, tokenizer.sep_token or tokenizer.eos_token]
        if not tokenizer.is_fast or None in tokens:
            raise UserError(
                f"{tokenizer.name_or_path}: the tokenizer ({name}) adds no special tokens such as [CLS] and "
                "[SEP]: set cls_token and sep_token in tokenizer_config.json, or give another --tokenizer_name PATH"
            )
        ids = tokenizer.convert_tokens_to_ids(tokens)
        assert isinstance(ids, list), "one id per token"
        prefix, suffix = ((token_id,) for token_id in ids)
    doubled = model_type in DOUBLE_SEPARATOR_TYPES
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="start $A end",
        pair="start $A end end $B end" if doubled else "start $A end $B:1 end:1",
        special_tokens=[
            {"id": placeholder, "ids": list(ids), "tokens": tokenizer.convert_ids_to_tokens(list(ids))}
            for placeholder, ids in (("start", prefix), ("end", suffix))
        ],
    )
    before, between, after = (
        " ".join(tokenizer.convert_ids_to_tokens(list(ids))) for ids in _special_tokens_around(tokenizer, 2)
    )
    logger.warning(
        "the tokenizer (%s) adds no special tokens to %s: adding the template of %s models, %s A %s B %s, and saving "
        "it with the tokenizer",
        name,
        "two texts" if any(single) else "a text",
        model_type,
        before,
        between,
        after,
    )


def _special_tokens_around(tokenizer: PreTrainedTokenizerBase, texts: int) -> list[tuple[int, ...]]:
    """Return the ids that the tokenizer adds before, between and after one or two texts: ``texts + 1`` groups.

    Placeholders stand for the texts, so the vocabulary does not matter.
    """
    if tokenizer.is_fast:
        word = Tokenizer(models.WordLevel({"text": 0})).encode("text")
        whole = plain_backend(tokenizer).post_process(word, word if texts == 2 else None)
        ids = [-1 if text is not None else token for token, text in zip(whole.ids, whole.sequence_ids, strict=True)]
    else:
        ids = tokenizer.build_inputs_with_special_tokens(*[[-1]] * texts)
    positions = [-1, *(position for position, token in enumerate(ids) if token == -1), len(ids)]
    return [tuple(ids[before + 1 : after]) for before, after in pairwise(positions)]


def template_of(tokenizer: PreTrainedTokenizerBase) -> Template:
    """Return the special tokens that the tokenizer adds to a text, and its separator."""
    prefix, suffix = _special_tokens_around(tokenizer, 1)
    separator = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    return Template(prefix, suffix, separator=() if separator is None else (separator,))


def line_template_of(tokenizer: PreTrainedTokenizerBase) -> Template:
    """Return the special tokens around a line: the separator before it if the tokenizer adds none.

    A causal model then predicts each token of the line.
    """
    template = template_of(tokenizer)
    return template if template.num_special else replace(template, prefix=template.separator)


def pair_template_of(tokenizer: PreTrainedTokenizerBase) -> PairTemplate:
    """Return the special tokens that the tokenizer adds to two texts."""
    return PairTemplate(*_special_tokens_around(tokenizer, 2))
