"""Store corpora as memory-mapped token ids on disk: 2 bytes per token, or 4 for large vocabularies."""

import json
import logging
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import datasets
import numpy as np
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from cloze.errors import UserError
from cloze.system.storage import find_or_write
from cloze.text.corpus import Corpus, read_documents
from cloze.tokenization import encoding
from cloze.tokenization.checks import count_unknown
from cloze.tokenization.encoding import Encoded, Encoder, chunk_documents, own_encoder, take_characters
from cloze.tokenization.nanotoken import choose_encoder
from cloze.tokenization.properties import fingerprint, hash_of, required_vocab_size, unknown_id
from cloze.tokenization.segmentation import count_sentences, split_document

logger = logging.getLogger(__name__)

# Increased when the format or the ids change, to invalidate older caches.
VERSION = 5
# Chunks that threads tokenize while text is read and ids are written. With two, one uses the processors while Python
# collects the ids of the other.
PREFETCH = 2


def cache_folder(cache_dir: str | None) -> Path:
    """Return the folder of prepared corpora and trained tokenizers, in ``cache_dir`` or the datasets library's cache.

    Raises UserError if it cannot be created.
    """
    path = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "cloze"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--cache_dir {path.parent} cannot be written to ({error.strerror}): give a writable folder"
        ) from None
    return path


@dataclass
class TokenizedCorpus:
    """Hold documents made of units, and units made of tokens; a unit is a document's text, a line or a sentence.

    Attributes:
        tokens: ids, [tokens].
        word_starts: whether a word starts at each token, [tokens], or None.
        units: first token of each unit, and the number of tokens, [units + 1].
        documents: first unit of each document, and the number of units, [documents + 1].
        num_sentences: number of sentences in the text, including those without tokens.
        is_estimate: whether ``num_sentences`` is estimated from part of the text.
        num_unknown: number of unknown tokens, such as [UNK].
    """

    tokens: np.ndarray
    word_starts: np.ndarray | None
    units: np.ndarray
    documents: np.ndarray
    num_sentences: int
    is_estimate: bool = False
    num_unknown: int = 0

    @property
    def unknown_share(self) -> float:
        """Return the share of unknown tokens, 0 to 1."""
        return self.num_unknown / max(1, len(self.tokens))

    @property
    def num_documents(self) -> int:
        """Count the documents."""
        return len(self.documents) - 1

    def spans(self, documents: np.ndarray | None = None) -> np.ndarray:
        """Return the first token and the end of each unit in these documents (all if None), [units, 2]."""
        spans = np.stack([self.units[:-1], self.units[1:]], axis=1)
        if documents is None:
            return spans
        chosen = np.zeros(self.num_documents, dtype=bool)
        chosen[documents] = True
        return spans[np.repeat(chosen, np.diff(self.documents))]

    def counts(self, documents: np.ndarray | None = None) -> np.ndarray:
        """Count the units in each of these documents (all if None), [documents]."""
        counts = np.diff(self.documents)
        return counts if documents is None else counts[documents]

    def count_tokens(self, documents: np.ndarray | None = None) -> int:
        """Count the tokens in these documents (all if None)."""
        return int(np.diff(self.spans(documents)).sum())


def prepare(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    cache: Path,
    *,
    granularity: str,
    with_words: bool,
    language: str = "en",
    faster: Encoder | None = None,
    overwrite: bool = False,
) -> TokenizedCorpus:
    """Tokenize the corpus, or read it from the cache if files, tokenizer and settings are the same.

    ``split_document`` explains ``granularity`` and ``language``. ``with_words`` stores word starts; ``faster`` is
    an encoder to use if it gives the tokenizer's ids; ``overwrite`` ignores the cached corpus. Raises UserError for
    text that cannot be read or has no tokens, and for a cache that cannot be written.
    """
    key = hash_of([VERSION, corpus.identity, fingerprint(tokenizer), granularity, with_words, language])
    path = cache / f"corpus-{key}"
    write_to = partial(
        write, corpus, tokenizer, granularity=granularity, with_words=with_words, language=language, faster=faster
    )
    # A token represents about four bytes of text.
    size = corpus.num_bytes // 4 * (_dtype_for(tokenizer).itemsize + with_words)
    return find_or_write(path, write_to, read, name="prepared corpus", size=size, overwrite=overwrite)


def tokenize(
    documents: list[list[str]], granularity: str, encode: Encoder, language: str = "en", unknown: int | None = None
) -> TokenizedCorpus:
    """Tokenize documents, each a list of lines, in memory; ``unknown`` is the id of the unknown token, if any."""
    texts_of_units = (split_document(lines, granularity, language) for lines in documents)
    encoded = [(encode(texts), counts) for texts, counts in chunk_documents(texts_of_units)]
    words = [each.word_starts for each, _ in encoded if each.word_starts is not None]
    units = _boundaries(each.lengths for each, _ in encoded)
    tokens = np.concatenate([each.ids for each, _ in encoded])
    return TokenizedCorpus(
        tokens=tokens,
        word_starts=np.concatenate(words) if words else None,
        units=units,
        documents=_boundaries(counts for _, counts in encoded),
        num_sentences=len(units) - 1,
        num_unknown=count_unknown(tokens, unknown),
    )


def _boundaries(lengths: Iterable[Sequence[int] | np.ndarray]) -> np.ndarray:
    """Return the start of each of N adjacent items, and the end of the last, [N + 1]."""
    return np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64)


def write(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    granularity: str,
    with_words: bool,
    language: str,
    faster: Encoder | None,
) -> None:
    """Tokenize the corpus into files in the folder ``path``; see ``prepare`` for arguments and errors."""
    dtype = _dtype_for(tokenizer)
    info = {"dtype": dtype.name, "with_words": with_words}
    documents = (split_document(lines, granularity, language) for lines in read_documents(corpus))
    counted = count_sentences(documents, info, granularity, language)
    progress = tqdm(counted, "tokenizing", unit=" documents", disable=not sys.stderr.isatty())
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
            if encoded.word_starts is not None:
                words.write(encoded.word_starts.data)
            num_unknown += count_unknown(encoded.ids, unknown)
            num_tokens = _write_begins(units, encoded.lengths, num_tokens)
            num_units = _write_begins(ends, counts, num_units)
        units.write(np.int64(num_tokens).tobytes())
        ends.write(np.int64(num_units).tobytes())
    if not num_tokens:
        raise UserError(
            f"{corpus.name}: the tokenizer finds no token in the text: give a model or --tokenizer_name for such text"
        )
    (path / "info.json").write_text(json.dumps(info | {"unknown": num_unknown}))


def encode_ahead(
    documents: Iterable[Sequence[str]], own: Encoder, faster: Encoder | None = None
) -> Iterator[tuple[Encoded, list[int]]]:
    """Yield chunks of encoded units, and the number of units in each document, encoding PREFETCH chunks ahead.

    Uses the ``faster`` encoder if it gives the same ids as the tokenizer's ``own`` for the beginning of the text.
    """
    waiting: deque = deque()
    encoder = None
    with ThreadPoolExecutor(PREFETCH) as pool:
        for texts, counts in chunk_documents(documents):
            encoder = encoder or choose_encoder(own, faster, take_characters(texts, encoding.CHUNK_CHARS))
            is_long = sum(map(len, texts)) > 2 * encoding.CHUNK_CHARS
            waiting.append((pool.submit(encoder, texts), counts))
            del texts
            # Encode a long document before reading on, to bound the memory.
            while waiting and (is_long or len(waiting) > PREFETCH):
                yield _next_result(waiting)
        while waiting:
            yield _next_result(waiting)


def _next_result(waiting: deque) -> tuple[Encoded, list[int]]:
    future, counts = waiting.popleft()
    return future.result(), counts


def _dtype_for(tokenizer: PreTrainedTokenizerBase) -> np.dtype:
    """Return the smallest dtype that holds the tokenizer's ids."""
    return np.dtype(np.uint16 if required_vocab_size(tokenizer) <= 2**16 else np.uint32)


def _write_begins(file: BinaryIO, lengths: Sequence[int] | np.ndarray, begin: int) -> int:
    """Write the start of each adjacent item, the first at ``begin``; return the end of the last."""
    ends = begin + np.cumsum(lengths, dtype=np.int64)
    file.write((ends - lengths).data)
    return int(ends[-1]) if len(ends) else begin


def read(path: Path) -> TokenizedCorpus:
    """Map the files that ``write`` wrote into memory."""
    info = json.loads((path / "info.json").read_text())
    return TokenizedCorpus(
        tokens=np.memmap(path / "tokens", info["dtype"], mode="r"),
        word_starts=np.memmap(path / "word_starts", bool, mode="r") if info["with_words"] else None,
        units=np.memmap(path / "units", np.int64, mode="r"),
        documents=np.memmap(path / "documents", np.int64, mode="r"),
        num_sentences=info["sentences"],
        is_estimate=info["about"],
        num_unknown=info["unknown"],
    )
