"""A corpus as token ids on disk, written once and memory-mapped: 2 bytes a token, or 4 for large vocabularies."""

import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import sentencex
from filelock import FileLock
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from cloze.arguments import ModelArguments, UserError
from cloze.corpus import Corpus, read_documents
from cloze.tokenization import encode, fingerprint, hash_of, num_ids

logger = logging.getLogger(__name__)

# Raised when what is written changes, so that older caches are not taken for it.
VERSION = 2


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
    """

    tokens: np.ndarray
    word_starts: np.ndarray | None
    units: np.ndarray
    documents: np.ndarray
    num_sentences: int

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
    overwrite: bool = False,
) -> TokenizedCorpus:
    """Tokenize the corpus, or take what was prepared from the same files with the same tokenizer and settings.

    A unit is a ``document``, a ``line``, a ``sentence`` found in the text, or one by ``sentence_per_line``.

    Processes that prepare the same corpus at the same time wait for each other at a file lock, not in a collective,
    which would time out on a large corpus (huggingface/transformers#17106).
    """
    key = hash_of([VERSION, corpus.identity, fingerprint(tokenizer), unit, with_words])
    path = cache / f"corpus-{key}"
    with FileLock(f"{path}.lock"):
        if path.exists() and not overwrite:
            logger.info("Reusing the prepared corpus in %s", path)
        else:
            partial = Path(f"{path}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            write(corpus, tokenizer, partial, unit, with_words)
            shutil.rmtree(path, ignore_errors=True)
            os.replace(partial, path)
            logger.info("Prepared %s in %s", corpus.name, path)
        return read(path)


def write(corpus: Corpus, tokenizer, path: Path, unit: str, with_words: bool) -> None:
    dtype = np.uint16 if num_ids(tokenizer) <= 2**16 else np.uint32
    info = {"dtype": np.dtype(dtype).name, "with_words": with_words, "sentences": 0}
    documents = count_sentences(unit_texts(corpus, unit), info, unit)
    progress = tqdm(documents, "tokenizing", unit=" documents", disable=not sys.stderr.isatty())
    num_tokens = num_units = 0
    with (
        open(path / "tokens", "wb") as tokens,
        open(path / "word_starts", "wb") as words,
        open(path / "units", "wb") as units,
        open(path / "documents", "wb") as ends,
    ):
        for document in encode(progress, tokenizer, with_words):
            ends.write(np.int64(num_units).tobytes())
            for ids, word_starts in document:
                units.write(np.int64(num_tokens).tobytes())
                tokens.write(ids.astype(dtype).tobytes())
                if with_words:
                    words.write(word_starts.tobytes())
                num_tokens += len(ids)
                num_units += 1
        ends.write(np.int64(num_units).tobytes())
        units.write(np.int64(num_tokens).tobytes())
    if not num_tokens:
        raise UserError(f"{corpus.name}: the tokenizer finds no token in the text: is it the right one?")
    (path / "info.json").write_text(json.dumps(info))


def unit_texts(corpus: Corpus, unit: str) -> Iterator[list[str]]:
    """The texts of each document's units."""
    for lines in read_documents(corpus):
        if unit == "line":
            yield lines
        elif unit == "sentence_per_line":  # a row of a table may have several
            yield [line.strip() for text in lines for line in text.split("\n") if line.strip()]
        else:
            text = "\n".join(lines)
            yield [text] if unit == "document" else split_sentences(text)


def split_sentences(text: str) -> list[str]:
    """Sentences of a text in any language, by punctuation; one may go over several lines, but not over a blank one."""
    return [sentence.strip() for sentence in sentencex.segment("en", text) if sentence.strip()]


def count_sentences(documents: Iterator[list[str]], info: dict, unit: str) -> Iterator[list[str]]:
    """Pass the documents on, and count their sentences in ``info``."""
    for document in documents:
        found = document if unit.startswith("sentence") else [s for text in document for s in split_sentences(text)]
        info["sentences"] += len(found)
        yield document


def read(path: Path) -> TokenizedCorpus:
    info = json.loads((path / "info.json").read_text())
    return TokenizedCorpus(
        tokens=np.memmap(path / "tokens", info["dtype"], mode="r"),
        word_starts=np.memmap(path / "word_starts", bool, mode="r") if info["with_words"] else None,
        units=np.fromfile(path / "units", np.int64),
        documents=np.fromfile(path / "documents", np.int64),
        num_sentences=info["sentences"],
    )
