"""Split documents into units, the texts that are tokenized separately: documents, lines or sentences."""

import logging
from collections.abc import Iterator

import sentencex

from cloze.tokenization.encoding import take_characters

logger = logging.getLogger(__name__)

# Languages that sentencex has rules for. For others, it silently uses the rules of a related language or of English.
LANGUAGES = "am ar bg bn ca da de el en es fi fr gu hi hy it ja kk kn ml mr my nl pa pl pt ru sk ta te uk"
# If units are not sentences, counting sentences takes half as long as reading, or more in long documents. They are
# therefore counted in about COUNTED characters or, if that is more, in COUNTED_SHARE of the text, and in at most
# LONGEST_COUNTED characters of a document.
COUNTED = 1_000_000
COUNTED_SHARE = 0.05
LONGEST_COUNTED = 1_000_000


def split_document(lines: list[str], granularity: str, language: str) -> list[str]:
    """Split a document, a list of lines, into the texts of its units.

    Units are, by ``granularity``, the ``document``, each ``line``, each ``sentence`` found by the rules of
    ``language``, an ISO 639 code, or each non-blank line of text that has one ``sentence_per_line``.
    """
    if granularity == "line":
        return lines
    if granularity == "sentence_per_line":  # a row of a table may have several
        return [line.strip() for text in lines for line in text.split("\n") if line.strip()]
    text = "\n".join(lines)
    return [text] if granularity == "document" else split_sentences(text, language)


def split_sentences(text: str, language: str) -> list[str]:
    """Split a text into sentences by punctuation; a sentence may span lines, but no blank line."""
    return [sentence.strip() for sentence in sentencex.segment(language, text) if sentence.strip()]


def check_language(language: str) -> None:
    """Warn if there are no sentence rules for a language."""
    if language not in LANGUAGES.split():
        logger.warning(
            "--language %s has no sentence rules: using the rules of a related language or of English; languages with "
            "rules are %s",
            language,
            LANGUAGES,
        )


def count_sentences(documents: Iterator[list[str]], info: dict, granularity: str, language: str) -> Iterator[list[str]]:
    """Yield the documents unchanged, then add to ``info`` their number of sentences and whether it is an estimate."""
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
