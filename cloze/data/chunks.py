"""Turn a chunk of a stream, a run of documents, into examples."""

import logging
from dataclasses import dataclass

import numpy as np

from cloze.data.builders import ExampleBuilder, Split
from cloze.data.samplers import Examples
from cloze.tokenization.checks import MOST_UNKNOWN
from cloze.tokenization.encoding import Encoder
from cloze.tokenization.token_cache import tokenize

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChunkBuilder:
    """Turn a chunk of a stream into examples.

    Attributes:
        name: of the corpus.
        builder: makes the examples.
        encoder: tokenizes the text.
        language: of the text, an ISO 639 code, for sentence splitting.
        unknown: id of the token for unknown text, None if there is none.
    """

    name: str
    builder: ExampleBuilder
    encoder: Encoder
    language: str = "en"
    unknown: int | None = None

    def tokenize(self, documents: list[list[str]]) -> Split:
        """Return a split of these documents, each a list of lines."""
        corpus = tokenize(documents, self.builder.granularity, self.encoder, self.language, self.unknown)
        return Split(self.name, corpus, None)

    def __call__(self, documents: list[list[str]], rng: np.random.Generator) -> Examples:
        """Return the examples of documents, each a list of lines; warn if most of their tokens are unknown."""
        split = self.tokenize(documents)
        if split.corpus.unknown_share > MOST_UNKNOWN:
            # Not an error: the first documents were known, and most others may be.
            logger.warning(
                "%s: %.1f %% of the tokens in %d consecutive documents are unknown to the tokenizer: check that they "
                "are in the language or script of the other documents",
                self.name,
                100 * split.corpus.unknown_share,
                len(documents),
            )
        return self.builder.build_chunk(split, rng)
