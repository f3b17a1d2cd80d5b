"""Train the tokenizer of a new model, of the kind that its type uses, or load it from the cache."""

import logging
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from cloze.errors import UserError
from cloze.system.storage import find_or_write
from cloze.text.corpus import Corpus
from cloze.tokenization.properties import hash_of
from cloze.tokenization.training import train_byte_level, train_gpt2, train_unigram, train_wordpiece

logger = logging.getLogger(__name__)

# Increased when training changes, to invalidate cached tokenizers.
VERSION = 2
WORDPIECE_TYPES = ("bert", "distilbert", "electra")
BYTE_LEVEL_TYPES = ("roberta", "modernbert")
GPT2_TYPES = ("gpt2",)
UNIGRAM_TYPES = ("xlnet",)
TRAINERS = {
    WORDPIECE_TYPES: train_wordpiece,
    BYTE_LEVEL_TYPES: train_byte_level,
    GPT2_TYPES: train_gpt2,
    UNIGRAM_TYPES: train_unigram,
}


def train_tokenizer(
    corpora: Sequence[Corpus], model_type: str, vocab_size: int, lower_case: bool, cache: Path, overwrite: bool
) -> PreTrainedTokenizerBase:
    """Train a tokenizer of the kind that ``model_type`` uses, or load it from the cache if the texts are the same.

    Raises UserError for types of models other than those above.
    """
    train = next((train for types, train in TRAINERS.items() if model_type in types), None)
    if train is None:
        raise UserError(
            f"a new {model_type} needs --tokenizer_name PATH; tokenizers can be trained for "
            f"{', '.join(WORDPIECE_TYPES)} (WordPiece), {', '.join(BYTE_LEVEL_TYPES + GPT2_TYPES)} (byte-level BPE) "
            f"and {', '.join(UNIGRAM_TYPES)} (Unigram)"
        )
    identities = [corpus.identity for corpus in corpora]
    path = cache / f"tokenizer-{hash_of([VERSION, train.__name__, *identities, vocab_size, lower_case])}"

    def write(folder: Path) -> None:
        train(corpora, vocab_size, lower_case).save_pretrained(folder)

    tokenizer = find_or_write(
        path,
        write,
        AutoTokenizer.from_pretrained,
        name="trained tokenizer",
        # Half of the bytes are merges.
        size=100 * vocab_size,
        overwrite=overwrite,
    )
    names = " and ".join(corpus.name for corpus in corpora)
    logger.info("Tokenizer: %s, %s tokens, trained on %s", type(tokenizer).__name__, f"{len(tokenizer):,}", names)
    return tokenizer
