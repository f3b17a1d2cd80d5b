"""A corpus as token ids on disk, written once and memory-mapped: 2 bytes a token, or 4 for large vocabularies."""

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import datasets
import numpy as np
import sentencex
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from cloze.config.arguments import ModelArguments
from cloze.errors import UserError
from cloze.system.storage import find_or_write
from cloze.text.corpus import Corpus, read_documents
from cloze.tokenization.encoding import Encoder, beginning, encode_ahead, own_encoder, portions
from cloze.tokenization.training import count_unknown, fingerprint, hash_of, required_vocab_size, unknown_id

logger = logging.getLogger(__name__)

# Raised when what is written changes, so that older caches are not taken for it.
VERSION = 5

# That sentencex has rules for; for other languages it takes those of a related one, or of English, and does not say so.
LANGUAGES = "am ar bg bn ca da de el en es fi fr gu hi hy it ja kk kn ml mr my nl pa pl pt ru sk ta te uk"

# Where the units are no sentences, finding those only to tell their number takes half as long as reading, or more if
# documents are long. They are counted in about so many characters, and in this share of a longer text.
COUNTED = 1_000_000
COUNTED_SHARE = 0.05
# Of one document, characters at most.
LONGEST_COUNTED = 1_000_000


def cache_folder(model_args: ModelArguments) -> Path:
    """Where prepared corpora and tokenizers trained from them are kept."""
    path = Path(model_args.cache_dir or datasets.config.HF_DATASETS_CACHE) / "cloze"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--cache_dir {path.parent} cannot be written to ({error.strerror}): give a folder") from None
    return path


@dataclass
class TokenizedCorpus:
    """Documents made of units, units made of tokens. A unit is a document's text, a line, or a sentence.

    Attributes:
        tokens: ids, [tokens].
        word_starts: whether a word starts at each token, [tokens], or None.
        units: where each unit begins in the tokens, and the end, [units + 1].
        documents: where each document begins in the units, and the end, [documents + 1].
        num_sentences: sentences in the text, those without a token included.
        about: whether that is an estimate, as not all the text was looked at.
        num_unknown: tokens that stand for what the vocabulary lacks, as [UNK].
    """

    tokens: np.ndarray
    word_starts: np.ndarray | None
    units: np.ndarray
    documents: np.ndarray
    num_sentences: int
    about: bool = False
    num_unknown: int = 0

    @property
    def unknown_share(self) -> float:
        return self.num_unknown / max(1, len(self.tokens))

    @property
    def num_documents(self) -> int:
        return len(self.documents) - 1

    def spans(self, documents: np.ndarray | None = None) -> np.ndarray:
        """Where each unit of these documents (of all, if None) begins and ends in the tokens, [units, 2]."""
        spans = np.stack([self.units[:-1], self.units[1:]], axis=1)
        if documents is None:
            return spans
        chosen = np.zeros(self.num_documents, dtype=bool)
        chosen[documents] = True
        return spans[np.repeat(chosen, np.diff(self.documents))]

    def counts(self, documents: np.ndarray | None = None) -> np.ndarray:
        """Units in each of these documents (of all, if None)."""
        counts = np.diff(self.documents)
        return counts if documents is None else counts[documents]

    def count_tokens(self, documents: np.ndarray | None = None) -> int:
        """Tokens in these documents (in all, if None)."""
        return int(np.diff(self.spans(documents)).sum())


def prepare(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    cache: Path,
    *,
    unit: str,
    with_words: bool,
    language: str = "en",
    faster: Encoder | None = None,
    overwrite: bool = False,
) -> TokenizedCorpus:
    """Tokenize the corpus, or take what was prepared from the same files with the same tokenizer and settings.

    A unit is a ``document``, a ``line``, a ``sentence`` found in the text by the rules of its ``language``, or one by
    ``sentence_per_line``. A ``faster`` encoder is used if it gives the tokenizer's own ids, so that what is prepared is
    the same.
    """
    key = hash_of([VERSION, corpus.identity, fingerprint(tokenizer), unit, with_words, language])
    path = cache / f"corpus-{key}"
    write_to = partial(write, corpus, tokenizer, unit=unit, with_words=with_words, language=language, faster=faster)
    # A token has about four bytes of text.
    size = corpus.num_bytes // 4 * (dtype_for(tokenizer).itemsize + with_words)
    return find_or_write(path, write_to, read, name="prepared corpus", size=size, overwrite=overwrite)


def tokenize(
    documents: list[list[str]], unit: str, encode: Encoder, language: str = "en", unknown: int | None = None
) -> TokenizedCorpus:
    """Some documents, each a list of lines, in memory; ``unknown`` is the id of tokens to count as such."""
    units = (units_of(lines, unit, language) for lines in documents)
    encoded = [(encode(texts), counts) for texts, counts in portions(units)]
    words = [each.word_starts for each, _ in encoded]
    units = ends_of(each.lengths for each, _ in encoded)
    tokens = np.concatenate([each.ids for each, _ in encoded])
    return TokenizedCorpus(
        tokens=tokens,
        word_starts=None if words[0] is None else np.concatenate(words),
        units=units,
        documents=ends_of(counts for _, counts in encoded),
        num_sentences=len(units) - 1,
        num_unknown=count_unknown(tokens, unknown),
    )


def ends_of(lengths: Iterable[Sequence[int]]) -> np.ndarray:
    """Where each of some things in a row begins, and the end, [things + 1]."""
    return np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64)


def write(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    unit: str,
    with_words: bool,
    language: str,
    faster: Encoder | None,
) -> None:
    dtype = dtype_for(tokenizer)
    info = {"dtype": dtype.name, "with_words": with_words}
    documents = count_sentences(unit_texts(corpus, unit, language), info, unit, language)
    progress = tqdm(documents, "tokenizing", unit=" documents", disable=not sys.stderr.isatty())
    num_tokens = num_units = num_unknown = 0
    unknown = unknown_id(tokenizer)
    with (
        open(path / "tokens", "wb") as tokens,
        open(path / "word_starts", "wb") as words,
        open(path / "units", "wb") as units,
        open(path / "documents", "wb") as ends,
    ):
        for encoded, counts in encode_ahead(progress, own_encoder(tokenizer, with_words), faster):
            tokens.write(encoded.ids.astype(dtype).data)
            if with_words:
                words.write(encoded.word_starts.data)
            num_unknown += count_unknown(encoded.ids, unknown)
            num_tokens = write_begins(units, encoded.lengths, num_tokens)
            num_units = write_begins(ends, counts, num_units)
        units.write(np.int64(num_tokens).tobytes())
        ends.write(np.int64(num_units).tobytes())
    if not num_tokens:
        raise UserError(f"{corpus.name}: the tokenizer finds no token in the text: is it the right one?")
    (path / "info.json").write_text(json.dumps(info | {"unknown": num_unknown}))


def dtype_for(tokenizer: PreTrainedTokenizerBase) -> np.dtype:
    return np.dtype(np.uint16 if required_vocab_size(tokenizer) <= 2**16 else np.uint32)


def write_begins(file: BinaryIO, lengths: Sequence[int], begin: int) -> int:
    """Write where each of some things in a row begins, the first of them at ``begin``; gives where they end."""
    ends = begin + np.cumsum(lengths, dtype=np.int64)
    file.write((ends - lengths).data)
    return int(ends[-1]) if len(ends) else begin


def unit_texts(corpus: Corpus, unit: str, language: str) -> Iterator[list[str]]:
    """The texts of each document's units."""
    return (units_of(lines, unit, language) for lines in read_documents(corpus))


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


def read(path: Path) -> TokenizedCorpus:
    info = json.loads((path / "info.json").read_text())
    return TokenizedCorpus(
        tokens=np.memmap(path / "tokens", info["dtype"], mode="r"),
        word_starts=np.memmap(path / "word_starts", bool, mode="r") if info["with_words"] else None,
        units=np.memmap(path / "units", np.int64, mode="r"),
        documents=np.memmap(path / "documents", np.int64, mode="r"),
        num_sentences=info["sentences"],
        about=info["about"],
        num_unknown=info["unknown"],
    )
