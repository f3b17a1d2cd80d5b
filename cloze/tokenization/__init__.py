"""Turn documents into token ids: tokenizers, special tokens, and the cache of prepared corpora."""
