"""Files, globs, folders, Hub names -> a corpus of documents; those to train on and those held out."""

import errno
import logging
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

from cloze.config.arguments import ModelArguments
from cloze.config.data_arguments import DataArguments, ReaderSettings
from cloze.errors import UserError
from cloze.text.files import (
    below_own,
    content_of,
    digest_of_parts,
    expand_glob,
    fixed_part,
    folders_below,
    printable,
    starts_of_parts,
)
from cloze.text.readers import (
    FORMATS,
    choose_column,
    file_format,
    find_delimiter,
    read_rows,
    read_table,
    read_text,
    text_in,
)

logger = logging.getLogger(__name__)

# What the datasets library meets where its cache is full, or another user's.
CANNOT_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Rows of each part of a data set by which its content is known again.
PART_ROWS = 100


@dataclass(frozen=True)
class FileCorpus:
    """Text files and tables on disk."""

    files: tuple[Path, ...]
    text_column: str | None = None
    settings: ReaderSettings = field(default_factory=ReaderSettings)

    @property
    def name(self) -> str:
        first = printable(self.files[0])
        return first if len(self.files) == 1 else f"{first} and {len(self.files) - 1} more files"

    @property
    def identity(self) -> list:
        """What a cache of this corpus depends on: every file's path, size and time of change, and how it is read."""
        return [_stats_of(self.files), self.text_column, (self.settings.delimiter, self.settings.quoting)]

    @cached_property
    def content(self) -> list[list]:
        """Size and digest of each file, found once: by them the text is known again, wherever it lies."""
        return list(map(content_of, self.files))

    @property
    def num_shards(self) -> int:
        """Parts that can be read one by one: the files."""
        return len(self.files)

    @property
    def num_bytes(self) -> int:
        return sum(size for size, _ in self.content)

    def name_of(self, number: int) -> str:
        """Return the name of a file, and when it was last changed."""
        time = datetime.fromtimestamp(self.files[number].stat().st_mtime)
        return f"{self.files[number]} (last changed {time:%Y-%m-%d %H:%M})"

    def read_shard(self, number: int) -> Iterator[list[str]]:
        path, content = self.files[number], self.content[number]
        if file_format(path) == ".txt":
            yield from read_text(path, self.settings)
        else:
            yield from read_table(path, self.text_column, self.settings)
        if content_of(path) != content:
            raise UserError(f"{path} changed while it was in use: put it back, or use a copy that stays unchanged")

    def documents(self) -> Iterator[list[str]]:
        return chain.from_iterable(map(self.read_shard, range(self.num_shards)))

    def first_row(self) -> tuple[str, dict[str, Any]] | None:
        """Return where the first table is and how it is divided, and its first row; None if there is none."""
        path = next((path for path in self.files if file_format(path) != ".txt"), None)
        row = None if path is None else next(read_rows(path, self.settings), None)
        if row is None:
            return None
        delimiter = find_delimiter(path, self.settings) if file_format(path) in (".csv", ".tsv") else ","
        return f"{path}" + (f", separated by {delimiter!r}" if delimiter != "," else ""), row[1]


@dataclass(frozen=True)
class HubCorpus:
    """One split of a data set of the datasets library, in memory map or streamed."""

    name: str
    rows: datasets.Dataset | datasets.IterableDataset
    text_column: str | None = None

    @property
    def identity(self) -> list:
        # What a stream holds cannot be known beforehand: nothing that was made of it is used again.
        fingerprint = getattr(self.rows, "_fingerprint", None) or uuid.uuid4().hex
        # Rows of a generator that were made anew have the same fingerprint, but not the same files.
        files = [Path(file["filename"]) for file in getattr(self.rows, "cache_files", [])]
        return [fingerprint, _stats_of(files), self.text_column]

    @cached_property
    def content(self) -> list[list]:
        """Number of rows and digest of the first, middle and last ones; of a stream, of its first and last shard.

        Fingerprints and files of data sets depend on where they lie and on the library's version.
        """
        if isinstance(self.rows, datasets.IterableDataset):
            size = self.num_shards
            parts = [islice(self.read_rows(shard), PART_ROWS) for shard in sorted({0, size - 1})]
        else:
            size = len(self.rows)
            starts = starts_of_parts(size, PART_ROWS)
            numbers = {number for start in starts for number in range(start, min(start + PART_ROWS, size))}
            parts = [HubCorpus(self.name, self.rows.select(sorted(numbers))).read_rows(0)]
        # Others, as images, need not look the same twice.
        kinds = str | int | float
        values = ({name: value for name, value in row.items() if isinstance(value, kinds)} for row in chain(*parts))
        return [[size, digest_of_parts(repr(row).encode() for row in values)]]

    @property
    def num_shards(self) -> int:
        """Parts that can be read one by one: of a stream, as many as its source has files or the like."""
        return self.rows.num_shards if isinstance(self.rows, datasets.IterableDataset) else 1

    @property
    def num_bytes(self) -> int:
        """Not known before it is read."""
        return 0

    def name_of(self, number: int) -> str:
        return self.name

    def read_shard(self, number: int) -> Iterator[list[str]]:
        name = f"{self.name}, shard {number}" if self.num_shards > 1 else self.name
        column = None
        for row_number, row in enumerate(self.read_rows(number)):
            column = column or choose_column(row, self.text_column, self.name)
            text = text_in(row, column, f"{name}, row {row_number}").strip()
            if text:
                yield [text]

    def read_rows(self, shard: int) -> Iterator[dict]:
        number = 0
        try:
            for row in self._rows_of(shard):
                yield row
                number += 1
        except (UnicodeDecodeError, pyarrow.ArrowException) as error:
            raise UserError(
                f"{self.name} cannot be read after row {number}: {error}: download or save it again"
            ) from None

    def _rows_of(self, shard: int) -> Iterable[dict]:
        if not isinstance(self.rows, datasets.IterableDataset):
            return self.rows
        # Rows one by one would be, in a data-loader worker, only those that the library takes for its part; batches are
        # all of them, at a tenth of the time.
        batches = self.rows.shard(self.num_shards, shard).iter(batch_size=100)
        return (dict(zip(batch, row, strict=True)) for batch in batches for row in zip(*batch.values(), strict=True))

    def documents(self) -> Iterator[list[str]]:
        return chain.from_iterable(map(self.read_shard, range(self.num_shards)))

    def first_row(self) -> tuple[str, dict[str, Any]] | None:
        """Return the name of the data set and its first row, None if it is empty."""
        row = next(self.read_rows(0), None)
        return None if row is None else (self.name, row)


Corpus = FileCorpus | HubCorpus


def log_columns(corpus: Corpus, other_columns: Sequence[str]) -> None:
    """Log the columns of the first table, the one that holds the text, and its first value.

    They show a wrong column, delimiter or header. What is wrong with the table is reported when all of it is read.
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


def _stats_of(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Return path, size and time of change of each file."""
    return [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def find_change(content: list[list] | None, corpus: Corpus | None) -> str | None:
    """Return where a text is not of this content any more; None if it is, or if one of them is not known."""
    if content is None or corpus is None or content == corpus.content:
        return None
    before, now = len(content), len(corpus.content)
    same = next((n for n, pair in enumerate(zip(content, corpus.content, strict=False)) if pair[0] != pair[1]), None)
    first = f"{corpus.name_of(min(before, now - 1) if same is None else same)} differs"
    return first if before == now else f"{first}, the first of {now} files, {before} then"


def read_documents(corpus: Corpus) -> Iterator[list[str]]:
    """The corpus's documents; UserError if there is not one."""
    documents = corpus.documents()
    first = next(documents, None)
    if first is None:
        raise UserError(f"{corpus.name} holds no text: it is empty, or all its lines are blank")
    documents = chain([first], documents)
    # A long one need not stay in memory until all are read.
    del first
    yield from documents


def find_corpora(
    data_args: DataArguments,
    model_args: ModelArguments,
    do_train: bool,
    do_eval: bool,
    output_dir: str | None = None,
) -> tuple[Corpus | None, Corpus | None]:
    """The training and the validation corpus. Without the latter, part of the former is to be held out.

    What lies in ``output_dir`` or in the cache is not read as text.
    """
    if not (do_train or do_eval):
        return None, None
    own = {"--cache_dir": Path(model_args.cache_dir or datasets.config.HF_DATASETS_CACHE)}
    if output_dir is not None:
        own["--output_dir"] = Path(output_dir)
    if data_args.dataset_name:
        if not _is_saved(folder := Path(os.path.expanduser(data_args.dataset_name))):
            _check_apart(folder, own)
        return load_hub(data_args, model_args, do_train, do_eval)
    # Without --do_train the training text still matters: the documents held out of it are evaluated.
    needs_train = data_args.train_file and (do_train or not data_args.validation_file)
    train = _find_corpus(data_args, "train", own) if needs_train else None
    needs_validation = data_args.validation_file and do_eval
    validation = _find_corpus(data_args, "validation", own) if needs_validation else None
    return train, validation


def _check_apart(folder: Path, own: Mapping[str, Path]) -> None:
    """Raise UserError for a folder of ``own`` in a data set on disk, all of whose files the library reads."""
    for name, path in own.items():
        if os.path.isdir(folder) and path.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{name} {path} lies in {folder}, whose files are all read as data: give a folder outside of it"
            )


def _find_corpus(data_args: DataArguments, split: str, own: Mapping[str, Path]) -> Corpus:
    """Return the files that --train_file or --validation_file names, or the folder of save_to_disk."""
    flag, patterns = f"--{split}_file", getattr(data_args, f"{split}_file")
    folder = Path(os.path.expanduser(patterns[0]))
    if len(patterns) > 1 or not _is_saved(folder):
        return FileCorpus(find_files(patterns, flag, own), data_args.text_column, data_args.reader_settings)
    rows = _load_saved(folder, flag)
    if isinstance(rows, datasets.DatasetDict):
        if split not in rows:
            raise UserError(
                f"{flag} {folder} has no split named {split}: give {folder}/SPLIT, one of {', '.join(rows)}"
            )
        folder, rows = folder / split, rows[split]
    return HubCorpus(str(folder), rows, data_args.text_column)


def _is_saved(folder: Path) -> bool:
    """Whether a folder was made by the save_to_disk of a Dataset or a DatasetDict."""
    names = {datasets.config.DATASET_STATE_JSON_FILENAME, datasets.config.DATASET_INFO_FILENAME}
    # Unlike Path.is_file, False of a text that was given for a path, too long for a name.
    is_file = os.path.isfile
    return is_file(folder / datasets.config.DATASETDICT_JSON_FILENAME) or all(is_file(folder / n) for n in names)


def _load_saved(folder: Path, flag: str) -> datasets.Dataset | datasets.DatasetDict:
    try:
        # In plain Python, and all columns, however it was formatted when it was saved.
        return datasets.load_from_disk(str(folder)).with_format(None)
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        raise UserError(f"{flag} {folder} cannot be loaded: save it again ({str(error)[:300]})") from None


def find_files(patterns: Sequence[str], flag: str, own: Mapping[str, Path] | None = None) -> tuple[Path, ...]:
    """Files that the patterns name, in a fixed order, each once. A folder stands for the text and tables below it.

    Args:
        own: folders that the run writes to, by their flags. What is in them, or was written by another run, is left
            out, unless it is named itself.
    """
    try:
        found = [path for pattern in patterns for path in _find_matches(pattern, flag, own or {})]
    except OSError as error:
        raise UserError(
            f"{flag}: {error.filename} cannot be read ({error.strerror}): make it readable, or leave it out"
        ) from None
    for path in found:
        if file_format(path) not in FORMATS:
            raise UserError(f"{flag}: {path} is not of a known format: {' '.join(FORMATS)}, or .gz, .zst of one")
    unique: dict[Path, Path] = {}
    for path in found:
        unique.setdefault(path.resolve(), path)
    return tuple(unique.values())


def _find_matches(pattern: str, flag: str, own: Mapping[str, Path]) -> list[Path]:
    """Return the files that one pattern names, sorted."""
    if not pattern:
        raise UserError(f"{flag}: a name is empty: give a file, a glob or a folder")
    path = Path(os.path.expanduser(pattern))
    if path.is_file():
        return [path]
    problem = f"{pattern} is not there: check the path (seen from {Path.cwd()})"
    if path.is_dir():
        base, folders = path, list(folders_below(path))
        # Hidden files, copies of editors among them, are left out.
        entries = (entry for folder in folders for entry in folder.iterdir() if not entry.name.startswith("."))
        matches = sorted(entry for entry in entries if entry.is_file() and file_format(entry) in FORMATS)
        problem = f"folder {pattern} holds no {' '.join(FORMATS)} file (or .gz, .zst of one)"
    elif path.exists():
        raise UserError(f"{flag}: {pattern} is a pipe or a device, and text is read several times: give a file")
    else:
        base, folders = fixed_part(path), []
        matches = sorted(match for match in expand_glob(path) if match.is_file())
    left_out = below_own([*matches, *folders], base, flag, own)
    matches = [match for match in matches if match not in left_out]
    saved = next((folder for folder in folders if folder not in left_out and _is_saved(folder)), None)
    if saved:
        raise UserError(
            f"{flag}: {saved} is a folder of save_to_disk: give it alone, to --dataset_name, --train_file or "
            "--validation_file, or write its rows by to_parquet"
        )
    if not matches:
        raise UserError(f"{flag}: {problem}")
    return matches


def load_hub(
    data_args: DataArguments, model_args: ModelArguments, do_train: bool, do_eval: bool
) -> tuple[Corpus | None, Corpus | None]:
    name = data_args.dataset_name
    folder = Path(os.path.expanduser(name))
    if _is_saved(folder):
        splits = _load_saved(folder, "--dataset_name")
        splits = splits if isinstance(splits, datasets.DatasetDict) else {"train": splits}
    else:
        splits = _load_dataset(data_args, model_args)
    corpora = {split: HubCorpus(f"{name} ({split})", rows, data_args.text_column) for split, rows in splits.items()}
    validation = corpora.get("validation") if do_eval else None
    if "train" not in corpora and (do_train or validation is None):
        raise UserError(f"--dataset_name {name} has no split named train (splits: {', '.join(corpora)})")
    if data_args.streaming and do_eval and validation is None:
        raise UserError(f"--dataset_name {name} has no validation split to evaluate on while streaming: drop --do_eval")
    return corpora.get("train") if do_train or validation is None else None, validation


def _load_dataset(data_args: DataArguments, model_args: ModelArguments) -> datasets.DatasetDict:
    name = data_args.dataset_name
    try:
        return datasets.load_dataset(
            name,
            data_args.dataset_config_name,
            cache_dir=model_args.cache_dir,
            token=model_args.token,
            streaming=data_args.streaming,
        )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ or error
        in_cache = isinstance(cause, OSError) and cause.errno in CANNOT_WRITE
        cure = "make room, or give a --cache_dir of your own" if in_cache else "check the name"
        raise UserError(f"--dataset_name {name} cannot be loaded: {cure} ({str(cause)[:300]})") from None


def split_documents(
    num_documents: int, percentage: float, rng: np.random.Generator, at_least: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the documents to train on and of those held out, each in ascending order, each at least so many."""
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
