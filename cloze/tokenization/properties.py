"""Read a tokenizer's properties: its backend, fingerprint, required vocabulary size, unknown token."""

import hashlib
import json
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase


def plain_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Return a fast tokenizer's backend; switch off truncation and padding, which tokenizer.json may set."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend


def unknown_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id of the unknown token, such as [UNK], or None if the tokenizer has none."""
    if tokenizer.unk_token_id is None and tokenizer.is_fast:
        # In a bare tokenizer.json, only the model names the token.
        backend = tokenizer.backend_tokenizer
        return backend.token_to_id(getattr(backend.model, "unk_token", None) or "")
    # GPT-2's is its end-of-text token, which is known where it is in a text.
    return None if tokenizer.unk_token_id == tokenizer.eos_token_id else tokenizer.unk_token_id


def required_vocab_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the number of embedding rows that the ids need: more than ``len(tokenizer)`` if ids have gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of everything in the tokenizer that affects its ids."""
    if not tokenizer.is_fast:
        return hash_of([type(tokenizer).__name__, tokenizer.get_vocab(), repr(tokenizer.init_kwargs)])
    return hash_of(plain_backend(tokenizer).to_str())


def hash_of(value: Any) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a value's JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
