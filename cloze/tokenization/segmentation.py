"""Documents -> units: the texts that are tokenized one by one, as documents, lines or sentences."""

import logging
from collections.abc import Iterator

import sentencex

from cloze.tokenization.encoding import beginning

logger = logging.getLogger(__name__)

# That sentencex has rules for; for other languages it takes those of a related one, or of English, and does not say so.
LANGUAGES = "am ar bg bn ca da de el en es fi fr gu hi hy it ja kk kn ml mr my nl pa pl pt ru sk ta te uk"
# Where the units are no sentences, finding those only to tell their number takes half as long as reading, or more if
# documents are long. They are counted in about so many characters, and in this share of a longer text.
COUNTED = 1_000_000
COUNTED_SHARE = 0.05
# Of one document, characters at most.
LONGEST_COUNTED = 1_000_000


def units_of(lines: list[str], unit: str, language: str) -> list[str]:
    """The texts of the units of a document of these lines."""
    if unit == "line":
        return lines
    if unit == "sentence_per_line":  # a row of a table may have several
        return [line.strip() for text in lines for line in text.split("\n") if line.strip()]
    text = "\n".join(lines)
    return [text] if unit == "document" else split_sentences(text, language)


def split_sentences(text: str, language: str) -> list[str]:
    """Split a text into sentences, by punctuation; one may go over several lines, but not over a blank one."""
    return [sentence.strip() for sentence in sentencex.segment(language, text) if sentence.strip()]


def check_language(language: str) -> None:
    if language not in LANGUAGES.split():
        logger.warning(
            "LANGUAGE: there are no rules for sentences of %r, so that those of a related language or of English are "
            "taken; there are for %s",
            language,
            LANGUAGES,
        )


def count_sentences(documents: Iterator[list[str]], info: dict, unit: str, language: str) -> Iterator[list[str]]:
    """Pass the documents on, and put into ``info`` how many sentences they have, and whether that is an estimate."""
    characters = counted = found = 0
    for document in documents:
        length = sum(map(len, document))
        characters += length
        if unit.startswith("sentence"):
            counted, found = characters, found + len(document)
        elif counted < COUNTED or counted < COUNTED_SHARE * characters:
            texts = beginning(document, LONGEST_COUNTED)
            counted += sum(map(len, texts))
            found += sum(len(split_sentences(text, language)) for text in texts)
        yield document
    about = counted < characters
    # Three digits of an estimate are plenty.
    info |= {"sentences": int(float(f"{found * characters / counted:.3g}")) if about else found, "about": about}
