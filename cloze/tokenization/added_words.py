"""Add words to the vocabulary of a tokenizer, which otherwise tokenizes as before."""

import copy
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from cloze.tokenization.domain_words import split_words
from cloze.tokenization.properties import fingerprint, plain_backend, required_vocab_size

logger = logging.getLogger(__name__)

# The score of a word in Unigram exceeds the sum of its pieces' scores by this, so that the word is preferred to them.
PREFERENCE = 1e-6


def add_words(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> PreTrainedTokenizerBase:
    """Return a copy of the tokenizer with words at the end of its model's vocabulary.

    WordPiece takes the longest token at the beginning of a word, so longer words that begin with a new word change,
    too. In Unigram these change only if they began with the pieces of the new word, or if the word's score would be
    less than all others. Byte-level BPE changes only where the whole word is the new one.

    Args:
        tokenizer: a tokenizer that ``check_extensible`` accepts.
        words: tokens that are not in the vocabulary, each a word as ``find_words`` returns it.
    """
    extended = copy.deepcopy(tokenizer)
    backend = plain_backend(extended)
    settings = json.loads(backend.to_str())
    model, end = settings["model"], required_vocab_size(tokenizer)
    if model["type"] == "Unigram":
        _add_to_scores(model, tokenizer, words)
    else:
        # With the added tokens: when the file is loaded, they get their ids from the model's vocabulary or, if they are
        # not in it, ids after the new words.
        model["vocab"] = tokenizer.get_vocab() | {word: end + number for number, word in enumerate(words)}
    if model["type"] == "BPE":
        _warn_of_unused_tokens(backend)
        # A whole word in the vocabulary becomes one token although no merges lead to it.
        model["ignore_merges"] = True
    backend.model = Tokenizer.from_str(json.dumps(settings)).model
    return extended


def _add_to_scores(model: dict, tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> None:
    """Add words to the vocabulary of Unigram, in which a token's id is its position."""
    vocabulary, backend = model["vocab"], tokenizer.backend_tokenizer
    scores = [score for _, score in vocabulary]
    # The score of unknown characters follows from the lowest score, which must not change.
    lowest = min(scores)
    scores[model["unk_id"]] = lowest
    added = {number: token for token, number in tokenizer.get_vocab().items() if number >= len(vocabulary)}
    vocabulary += [[added[number], lowest] for number in sorted(added)]
    for word in words:
        score = sum(scores[piece.id] for piece in backend.model.tokenize(word)) + PREFERENCE
        vocabulary.append([word, max(score, lowest)])


def _warn_of_unused_tokens(backend: Tokenizer) -> None:
    """Warn if the vocabulary has words that the merges do not lead to: from now on, they are tokens."""
    if getattr(backend.model, "ignore_merges", False):
        return
    unused = []
    for token, number in backend.get_vocab(with_added_tokens=False).items():
        if [piece.id for piece in backend.model.tokenize(token)] != [number]:
            text = decoders.ByteLevel().decode([token])
            if number not in backend.get_added_tokens_decoder() and split_words(text, backend) == [token]:
                unused.append(token)
    if unused:
        logger.warning(
            "%s words of the tokenizer's vocabulary, such as %s, were never tokens, because no merges lead to them: "
            "with new words, they are",
            f"{len(unused):,}",
            min(unused),
        )


def save_words(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a tokenizer with added words such that AutoTokenizer loads it with the same ids.

    Some classes of transformers, such as RobertaTokenizer, rebuild the tokenizer from its vocabulary and lose
    ``ignore_merges``; the saved class is then the general one, which reads the file unchanged.
    """
    tokenizer.save_pretrained(folder)
    if fingerprint(AutoTokenizer.from_pretrained(folder)) != fingerprint(tokenizer):
        names = tokenizer.model_input_names
        PreTrainedTokenizerFast.from_pretrained(folder, model_input_names=names).save_pretrained(folder)
