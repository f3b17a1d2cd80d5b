"""What a tokenizer is: its backend, its fingerprint, the rows that its ids need, its token for unknown text."""

import hashlib
import json

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase


def plain_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A fast tokenizer's, without the truncation and padding that a tokenizer.json may come with."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend


def unknown_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id of what the vocabulary lacks, as [UNK], or None if the tokenizer has none."""
    if tokenizer.unk_token_id is None and tokenizer.is_fast:
        # That of a tokenizer.json alone is named in its model only.
        backend = tokenizer.backend_tokenizer
        return backend.token_to_id(getattr(backend.model, "unk_token", None) or "")
    return tokenizer.unk_token_id


def required_vocab_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Rows that an embedding needs for the tokenizer's ids; more than ``len(tokenizer)`` where ids have gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Changes whenever the tokenizer would give other ids."""
    if not tokenizer.is_fast:
        return hash_of([type(tokenizer).__name__, tokenizer.get_vocab(), repr(tokenizer.init_kwargs)])
    return hash_of(plain_backend(tokenizer).to_str())


def hash_of(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
