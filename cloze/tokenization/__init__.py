"""Documents -> token ids: tokenizers trained or loaded, their special tokens, the cache of prepared corpora."""
