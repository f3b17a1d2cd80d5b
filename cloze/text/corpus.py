"""Read the documents of a corpus, detect when it changes, and hold documents out."""

import hashlib
import logging
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow

from cloze.config.data_arguments import ReaderSettings
from cloze.errors import UserError
from cloze.text.columns import choose_column, read_column
from cloze.text.csv_rows import find_delimiter
from cloze.text.decoding import file_format
from cloze.text.files import printable
from cloze.text.readers import read_rows, read_table, read_text

logger = logging.getLogger(__name__)

# Bytes per sample of a file, and rows per sample of a data set, in the digest of the content.
SAMPLE_BYTES = 2**16
SAMPLE_ROWS = 100


class _Shards(ABC):
    """Read documents, each a list of lines, shard by shard."""

    @property
    @abstractmethod
    def num_shards(self) -> int:
        """Count the shards."""

    @abstractmethod
    def read_shard(self, number: int) -> Iterator[list[str]]:
        """Yield the documents of a shard."""

    def documents(self) -> Iterator[list[str]]:
        """Yield the documents of all shards in order."""
        return chain.from_iterable(map(self.read_shard, range(self.num_shards)))


@dataclass(frozen=True)
class FileCorpus(_Shards):
    """Read text files and tables on disk; each file is a shard."""

    files: tuple[Path, ...]
    text_column: str | None = None
    settings: ReaderSettings = field(default_factory=ReaderSettings)

    @property
    def name(self) -> str:
        """Return the name of the first file and the number of other files."""
        first = printable(self.files[0])
        return first if len(self.files) == 1 else f"{first} and {len(self.files) - 1} more files"

    @property
    def identity(self) -> list:
        """List what a cache of this corpus depends on: path, size and mtime of each file, and reader settings."""
        return [_file_stats(self.files), self.text_column, (self.settings.delimiter, self.settings.quoting)]

    @cached_property
    def content(self) -> list[list]:
        """List size and digest of each file, computed once; they identify the text independently of its path."""
        return list(map(digest_file, self.files))

    @property
    def num_shards(self) -> int:
        """Count the files."""
        return len(self.files)

    @property
    def num_bytes(self) -> int:
        """Sum the sizes of the files as stored, so compressed files count by their compressed size."""
        return sum(size for size, _ in self.content)

    def shard_name(self, number: int) -> str:
        """Return a file's path and modification time."""
        time = datetime.fromtimestamp(self.files[number].stat().st_mtime)
        return f"{self.files[number]} (last changed {time:%Y-%m-%d %H:%M})"

    def read_shard(self, number: int) -> Iterator[list[str]]:
        """Yield the documents of a file; raise UserError if the file changed since its digest was computed."""
        path, content = self.files[number], self.content[number]
        if file_format(path) == ".txt":
            yield from read_text(path, self.settings)
        else:
            yield from read_table(path, self.text_column, self.settings)
        if digest_file(path) != content:
            raise UserError(f"{path} changed during the run: restore it, or use a copy that does not change")

    def first_row(self) -> tuple[str, dict[str, Any]] | None:
        """Return the path, with the delimiter, and the first row of the first table; None without a table or row."""
        path = next((path for path in self.files if file_format(path) != ".txt"), None)
        if path is None:
            return None
        row = next(read_rows(path, self.settings), None)
        if row is None:
            return None
        delimiter = find_delimiter(path, self.settings) if file_format(path) in (".csv", ".tsv") else ","
        return f"{path}" + (f", separated by {delimiter!r}" if delimiter != "," else ""), row[1]


@dataclass(frozen=True)
class HubCorpus(_Shards):
    """Read one split of a data set of the datasets library, memory-mapped or streamed."""

    name: str
    rows: datasets.Dataset | datasets.IterableDataset
    text_column: str | None = None

    # Unknown until the data set is read.
    num_bytes = 0

    @property
    def identity(self) -> list:
        """List what a cache of this corpus depends on: fingerprint and files of the data set, and the text column."""
        # The rows of a stream are unknown, so its caches are never reused. The fingerprint is documented, though its
        # name is private.
        fingerprint = getattr(self.rows, "_fingerprint", None) or uuid.uuid4().hex
        # A generator that runs again gives the same fingerprint, but other files.
        files = [Path(file["filename"]) for file in getattr(self.rows, "cache_files", [])]
        return [fingerprint, _file_stats(files), self.text_column]

    @cached_property
    def content(self) -> list[list]:
        """List the number of rows and a digest of the first, middle and last rows.

        For a stream: the number of shards and a digest of the first rows of the first and last shard. Fingerprints and
        files would not do: they depend on the path and on the library's version.
        """
        samples: list[Iterator[dict]]
        if isinstance(self.rows, datasets.IterableDataset):
            size = self.num_shards
            samples = [islice(self.read_rows(shard), SAMPLE_ROWS) for shard in sorted({0, size - 1})]
        else:
            size = len(self.rows)
            starts = _sample_starts(size, SAMPLE_ROWS)
            numbers = {number for start in starts for number in range(start, min(start + SAMPLE_ROWS, size))}
            samples = [HubCorpus(self.name, self.rows.select(sorted(numbers))).read_rows(0)]
        # Values of other types, such as images, may have a different repr each time.
        kinds = str | int | float
        values = ({name: value for name, value in row.items() if isinstance(value, kinds)} for row in chain(*samples))
        return [[size, _digest_samples(repr(row).encode() for row in values)]]

    @property
    def num_shards(self) -> int:
        """Count the shards: one, or the shards of a stream's source, which are often files."""
        return self.rows.num_shards if isinstance(self.rows, datasets.IterableDataset) else 1

    def shard_name(self, number: int) -> str:
        """Return the name of the data set, as its shards have no names."""
        return self.name

    def read_shard(self, number: int) -> Iterator[list[str]]:
        """Yield the documents of a shard."""
        name = f"{self.name}, shard {number}" if self.num_shards > 1 else self.name
        rows = ((f"{name}, row {row_number}", row) for row_number, row in enumerate(self.read_rows(number)))
        return read_column(rows, self.text_column, self.name)

    def read_rows(self, shard: int) -> Iterator[dict]:
        """Yield the rows of a shard; raise UserError if they cannot be read."""
        number = 0
        try:
            for row in self._shard_rows(shard):
                yield row
                number += 1
        except (UnicodeDecodeError, pyarrow.ArrowException) as error:
            raise UserError(
                f"{self.name} cannot be read after row {number}: {error}: download it or save it again"
            ) from None

    def _shard_rows(self, shard: int) -> Iterable[dict]:
        if not isinstance(self.rows, datasets.IterableDataset):
            return self.rows
        # In a data-loader worker, the library iterates only over the rows assigned to that worker; batches contain
        # all rows, and take a tenth of the time.
        batches = self.rows.shard(self.num_shards, shard).iter(batch_size=100)
        return (dict(zip(batch, row, strict=True)) for batch in batches for row in zip(*batch.values(), strict=True))

    def first_row(self) -> tuple[str, dict[str, Any]] | None:
        """Return the name of the data set and its first row; None if it is empty."""
        row = next(self.read_rows(0), None)
        return None if row is None else (self.name, row)


# Either kind of corpus, in annotations.
Corpus = FileCorpus | HubCorpus


def digest_file(path: Path) -> list:
    """Return the size of a file and a digest of its first, middle and last SAMPLE_BYTES.

    Raises UserError if it cannot be read.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            starts = _sample_starts(size, SAMPLE_BYTES)
            return [size, _digest_samples(file.read(SAMPLE_BYTES) for start in starts if file.seek(start) == start)]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): restore it, or make it readable") from None


def _sample_starts(size: int, length: int) -> tuple[int, int, int]:
    """Return the start positions of the first, middle and last ``length`` of ``size`` items."""
    return 0, max(size - length, 0) // 2, max(size - length, 0)


def _digest_samples(samples: Iterable[bytes]) -> str:
    """Return the BLAKE2 digest of the concatenated samples as 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for sample in samples:
        digest.update(sample)
    return digest.hexdigest()


def _file_stats(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Return path, size in bytes and mtime in nanoseconds of each file."""
    return [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def log_columns(corpus: Corpus, other_columns: Sequence[str]) -> None:
    """Log the columns of the first table, the text column and its first value.

    They reveal a wrong column, delimiter or header. Errors in the table are reported later, when it is read.
    """
    with suppress(UserError):
        found = corpus.first_row()
        if found is not None:
            where, row = found
            column = choose_column(row, corpus.text_column, where, other_columns)
            columns = ", ".join(map(str, row))
            logger.info(
                "Columns of %s: %s; reading %s, first value %r", where, columns, column, str(row[column] or "")[:60]
            )


def find_change(content: list[list] | None, corpus: Corpus) -> str | None:
    """Return where the corpus differs from ``content``, its recorded content when a checkpoint was written.

    Returns None if they are equal, or if nothing was recorded.
    """
    if content is None or content == corpus.content:
        return None
    before, now = len(content), len(corpus.content)
    same = next((n for n, pair in enumerate(zip(content, corpus.content, strict=False)) if pair[0] != pair[1]), None)
    first = f"{corpus.shard_name(min(before, now - 1) if same is None else same)} differs"
    return first if before == now else f"{first}, the first of {now} files to differ; the checkpoint has {before}"


def read_documents(corpus: Corpus) -> Iterator[list[str]]:
    """Yield the documents of the corpus; raise UserError if there are none."""
    documents = corpus.documents()
    first = next(documents, None)
    if first is None:
        raise UserError(f"{corpus.name} holds no text: it is empty, or all its lines are blank")
    documents = chain([first], documents)
    # Free the first document, which may be long, as soon as it is read.
    del first
    yield from documents


def split_documents(
    num_documents: int, percentage: float, rng: np.random.Generator, at_least: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the training documents and of the held-out documents, both ascending.

    Raises UserError if either set would have fewer than ``at_least`` documents.
    """
    held_out = max(at_least, round(num_documents * percentage / 100))
    left = max(num_documents - held_out, 0) or "none"
    if num_documents - held_out < at_least:
        raise UserError(
            f"--validation_split_percentage {percentage} of {num_documents} documents leaves {left} to train on"
            + (f" (pairs need {at_least} on each side)" if at_least > 1 else "")
            + ": give --validation_file, or separate documents by blank lines"
        )
    order = rng.permutation(num_documents)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
