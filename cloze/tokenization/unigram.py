"""Train a Unigram tokenizer like XLNet's."""

import json
from collections.abc import Iterator, Sequence
from itertools import chain

from transformers import PreTrainedTokenizerBase, XLNetTokenizer

from cloze.text.corpus import Corpus, read_documents
from cloze.tokenization.properties import plain_backend
from cloze.tokenization.replacement import retrain
from cloze.tokenization.training import join_lines

# In the order of their ids in XLNet.
SPECIAL = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>")


def train_unigram(corpora: Sequence[Corpus], vocab_size: int, lower_case: bool) -> PreTrainedTokenizerBase:
    """Train a tokenizer like XLNet's, with the same ids of special tokens."""

    def read() -> Iterator[str]:
        return join_lines(chain.from_iterable(map(read_documents, corpora)))

    untrained = XLNetTokenizer(vocab=[(token, 0.0) for token in SPECIAL], do_lower_case=lower_case)
    model = retrain(json.loads(plain_backend(untrained).to_str()), read, vocab_size)["model"]
    return XLNetTokenizer(vocab=[(token, score) for token, score in model["vocab"]], do_lower_case=lower_case)
