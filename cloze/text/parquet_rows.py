"""Read the rows of .parquet files, each with its location, a few at a time."""

import io
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from cloze.config.data_arguments import ReaderSettings
from cloze.errors import UserError
from cloze.text import decoding
from cloze.text.columns import check_names
from cloze.text.decoding import COMPRESSED, open_binary, too_long

# Rows per read; fewer if they are long.
CHUNK_ROWS = 16


def read_parquet(
    path: Path, settings: ReaderSettings, column: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the location of each row and the row, with all columns or only ``column``.

    Raises UserError for a file that cannot be read, and for a row longer than a document may be.
    """
    number = 0
    try:
        with _open_parquet(path) as file:
            # Without a buffer, pyarrow reads a column of a whole row group at once, which may be all of the file.
            table = pyarrow.parquet.ParquetFile(file, buffer_size=decoding.CHUNK_CHARS, pre_buffer=False)
            check_names(table.schema_arrow.names, path)
            for group in range(table.num_row_groups):
                for rows in _read_row_group(table, group, column, path, number, settings):
                    for row in rows:
                        yield f"{path}, row {number}", row
                        number += 1
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} cannot be read as parquet: {error}: copy it again") from None


def _read_row_group(
    table: pyarrow.parquet.ParquetFile,
    number: int,
    column: str | None,
    path: Path,
    first: int,
    settings: ReaderSettings,
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a group, a few at a time; ``first`` is the number of its first row in the file."""
    group = table.metadata.row_group(number)
    columns = map(group.column, range(group.num_columns))
    size = max([1, *(each.total_uncompressed_size for each in columns if column in (None, each.path_in_schema))])
    average = size / max(1, group.num_rows)
    # Checked before reading, by the sizes in the metadata, which include page headers.
    if average > settings.max_document_chars + 10_000:
        raise too_long(path, f"row {first} or after it", settings)
    read = {"columns": None if column is None else [column], "use_threads": False}
    batch_size = max(1, min(CHUNK_ROWS, int(4 * decoding.CHUNK_CHARS / average)))
    # In batches, pyarrow holds a whole page in memory beside its values.
    is_single = group.num_rows == 1
    read_whole = partial(table.read_row_group, **read)
    for batch in map(read_whole, [number]) if is_single else table.iter_batches(batch_size, [number], **read):
        _check_lengths(batch, path, first, settings)
        first += batch.num_rows
        rows = batch.to_pylist()
        # Otherwise a long document is in memory twice.
        del batch
        if is_single:
            pyarrow.default_memory_pool().release_unused()
        yield rows


def _check_lengths(rows: pyarrow.RecordBatch | pyarrow.Table, path: Path, first: int, settings: ReaderSettings) -> None:
    """Raise UserError for a value longer than a document may be; ``first`` is the number of the first row."""
    if rows.nbytes <= settings.max_document_chars:
        return
    for values in rows.columns:
        if pyarrow.types.is_string(values.type) or pyarrow.types.is_large_string(values.type):
            for number, length in enumerate(pyarrow.compute.binary_length(values).to_pylist(), first):
                if (length or 0) > settings.max_document_chars:
                    raise too_long(path, f"row {number}", settings)


@contextmanager
def _open_parquet(path: Path) -> Iterator[io.BufferedIOBase | IO[bytes]]:
    """Open a .parquet file; decompress .gz or .zst to a temporary file, as reading parquet starts at the end."""
    with open_binary(path) as file:
        if path.suffix not in COMPRESSED:
            yield file
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy, decoding.CHUNK_CHARS)
            yield copy
