"""From documents to token ids: tokenizers, their special tokens, and the cache of prepared corpora."""
