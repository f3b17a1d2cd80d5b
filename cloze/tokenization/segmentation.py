"""Split documents into units, the texts that are tokenized one by one: documents, lines or sentences."""

import logging
from collections.abc import Iterator

import sentencex

from cloze.tokenization.encoding import take_characters

logger = logging.getLogger(__name__)

# Languages that sentencex has rules for; for others it uses those of a related one, or of English, without a warning.
LANGUAGES = "am ar bg bn ca da de el en es fi fr gu hi hy it ja kk kn ml mr my nl pa pl pt ru sk ta te uk"
# Where units are not sentences, finding sentences only to count them takes half as long as reading, or more if
# documents are long. They are counted in about COUNTED characters, and in this share of a longer text; in one document,
# in at most LONGEST_COUNTED characters.
COUNTED = 1_000_000
COUNTED_SHARE = 0.05
LONGEST_COUNTED = 1_000_000


def split_document(lines: list[str], granularity: str, language: str) -> list[str]:
    """Split a document into the texts of its units.

    Args:
        granularity: what a unit is: the ``document``, a ``line``, a ``sentence`` found by the rules of the language,
            or a sentence that is a line, ``sentence_per_line``.
        language: an ISO 639 code.
    """
    if granularity == "line":
        return lines
    if granularity == "sentence_per_line":  # a row of a table may have several
        return [line.strip() for text in lines for line in text.split("\n") if line.strip()]
    text = "\n".join(lines)
    return [text] if granularity == "document" else split_sentences(text, language)


def split_sentences(text: str, language: str) -> list[str]:
    """Split a text into sentences, by punctuation; one may span lines, but not a blank one."""
    return [sentence.strip() for sentence in sentencex.segment(language, text) if sentence.strip()]


def check_language(language: str) -> None:
    """Warn of a language without rules for sentences."""
    if language not in LANGUAGES.split():
        logger.warning(
            "LANGUAGE: there are no rules for sentences of %r, so that those of a related language or of English are "
            "taken; there are for %s",
            language,
            LANGUAGES,
        )


def count_sentences(documents: Iterator[list[str]], info: dict, granularity: str, language: str) -> Iterator[list[str]]:
    """Yield the documents unchanged, then add to ``info`` how many sentences they have, and if that is an estimate."""
    characters = counted = found = 0
    for document in documents:
        length = sum(map(len, document))
        characters += length
        if granularity.startswith("sentence"):
            counted, found = characters, found + len(document)
        elif counted < COUNTED or counted < COUNTED_SHARE * characters:
            texts = take_characters(document, LONGEST_COUNTED)
            counted += sum(map(len, texts))
            found += sum(len(split_sentences(text, language)) for text in texts)
        yield document
    is_estimate = counted < characters
    # An estimate has three significant digits.
    number = int(float(f"{found * characters / counted:.3g}")) if is_estimate else found
    info |= {"sentences": number, "about": is_estimate}
