#!/usr/bin/env python
"""Measure the peak memory of preparing text, for each file format and several document lengths.

    python benchmarks/memory.py            # 200 MB of text in each file: half an hour
    python benchmarks/memory.py --quick    # 20 MB: five minutes

The texts are words of the sample in random order; lines end only where documents end. Each measurement runs a script
with --prepare_only in its own process, and subtracts the peak of the same command on one short line, which is the
memory of Python and the libraries. The bound is four times the longest document plus 100 MB; pairs may also take the
memory of an epoch's pairs, and .parquet a page of the file. Prints a table and a line of JSON. The exit code is 1 if a
bound is exceeded.
"""

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
MB = 1_000_000
# Characters of the random text that is repeated to make a file.
BLOCK = 10 * MB
# Bytes per character of text for an epoch's pairs and their token ids.
DRAWN = 2.5
# Rows in a page of a .parquet file, which pyarrow reads whole: pyarrow's default, and pages of limited size.
PAGE_ROWS = {"parquet": 1024, "pages": 8}
LONG, ROW, SHORT, TINY = 10 * MB, 100_000, 2_000, 200


class Case(NamedTuple):
    """A file to prepare. Its documents have ``length`` characters; None makes one document of all the text."""

    name: str
    length: int | None
    script: str = "run_mlm.py"
    flags: str = "--tokenizer_backend tokenizers"
    trains_tokenizer: bool = False
    # Bound of the memory, in multiples of the longest document.
    times: int = 4


CASES = (
    Case("text.txt", None),
    Case("text.txt", None, flags="--tokenizer_backend auto"),
    Case("text.txt", None, trains_tokenizer=True),
    Case("text.txt", None, "run_nsp.py"),
    Case("text.csv", None),
    Case("text.json", None),
    Case("text.jsonl", None),
    # pyarrow holds a value four times: as a compressed page, a page, a dictionary and an array.
    Case("text.parquet", None, times=5),
    Case("text.txt.gz", None),
    Case("text.csv.gz", None),
    Case("text.json.gz", None),
    Case("text.jsonl.zst", None),
    Case("text.txt", LONG),
    Case("text.parquet", ROW),
    Case("text.parquet.gz", ROW),
    Case("text.pages.parquet", ROW),
    Case("text.json", SHORT),
    Case("text.json.gz", SHORT),
    Case("text.txt", TINY),
    Case("text.txt", TINY, "run_nsp.py"),
    Case("text.txt.gz", TINY),
    Case("text.csv", TINY),
    Case("text.jsonl", TINY),
    Case("text.parquet", TINY),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=200, help="size of each file")
    parser.add_argument("--quick", action="store_true", help="files of 20 MB")
    parser.add_argument("--only", default="", help="only the cases with this text in their description, such as .csv")
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = 20 * MB if args.quick else args.megabytes * MB
    if args.make:
        path, length = args.make
        make(Path(path), size, int(length))
        return
    rows = []
    print("input | longest document, MB | peak without imports, MB | bound, MB | within | seconds")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_in_child(folder / "tokenizer", size, 0)
        for case in (case for case in CASES if args.only in describe(case)):
            rows.append(measure(case, folder, size))
            row = rows[-1]
            print(
                f"{row['input']} | {row['longest']:,.1f} | {row['peak']:,.0f} | {row['bound']:,.0f} | "
                f"{'yes' if row['held'] else 'NO'} | {row['seconds']:,.0f}",
                flush=True,
            )
    print(json.dumps({"memory": rows}))
    sys.exit(0 if all(row["held"] for row in rows) else 1)


def describe(case: Case) -> str:
    documents = "one document" if case.length is None else f"documents of {case.length:,}"
    trained = ", tokenizer trained on it" if case.trains_tokenizer else ""
    return f"{case.name.removeprefix('text')}, {documents}{trained} ({case.script} {case.flags})"


def measure(case: Case, folder: Path, size: int) -> dict:
    """Prepare a file, and one line of text with the same command."""
    length = case.length or size
    path = folder / case.name
    make_in_child(path, size, length)
    line = folder / "line.txt"
    # Two documents, because pairs need two.
    line.write_text("The moon is far. The sun is farther.\nStars are far. They shine.\n")
    if case.script == "run_nsp.py" and case.length is None:
        path, line = (add_document(text, folder) for text in (path, line))
    base, _ = prepare(case, line, folder)
    peak, seconds = prepare(case, path, folder)
    path.unlink()
    bound = case.times * length / MB + 100
    if case.script == "run_nsp.py":
        bound += DRAWN * size / MB
    if ".parquet" in case.name and length < size:
        # Compressed and decompressed.
        bound += 2 * PAGE_ROWS[case.name.split(".")[1]] * length / MB
    result = {"input": describe(case), "longest": length / MB, "peak": peak - base, "imports": base, "bound": bound}
    return result | {"held": peak - base <= bound, "seconds": seconds}


def add_document(path: Path, folder: Path) -> Path:
    with open(path, "a") as file:
        file.write("\nAnother document. It is short.\n")
    return path


def prepare(case: Case, text: Path, folder: Path) -> tuple[float, float]:
    """Run the script on the text; return its peak memory in MB, and seconds."""
    argv = [sys.executable, str(ROOT / case.script), "--model_type", "bert", "--do_train", "--prepare_only"]
    argv += ["--train_file", str(text), "--cache_dir", str(folder / "cache"), "--output_dir", str(folder / "out")]
    argv += ["--overwrite_cache", *case.flags.split()]
    argv += ["--vocab_size", "8000"] if case.trains_tokenizer else ["--tokenizer_name", str(folder / "tokenizer")]
    start = time.perf_counter()
    with open(folder / "log", "w+") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=folder)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            sys.exit(f"{describe(case)}: exit code {process.returncode}\n{log.read()[-2000:]}")
    return usage.ru_maxrss * 1024 / MB, time.perf_counter() - start


# Files


def make_in_child(path: Path, size: int, length: int) -> None:
    """Make a file in a child process, because the memory of this process counts in the peak of its children."""
    argv = [sys.executable, __file__, "--megabytes", str(size // MB), "--make", str(path), str(length)]
    subprocess.run(argv, check=True)


def make(path: Path, size: int, length: int) -> None:
    """Write a file of documents with ``length`` characters, or the tokenizer."""
    if path.name == "tokenizer":
        make_tokenizer(path)
        return
    content = CONTENTS[path.name.split(".")[1]](documents(size, length))
    if path.suffix == ".gz":
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.writelines(content)
    else:
        import pyarrow

        with pyarrow.output_stream(str(path)) as file:
            for part in content:
                file.write(part)


def make_tokenizer(path: Path) -> None:
    sys.path.insert(0, str(ROOT))
    from cloze.text.corpus import FileCorpus
    from cloze.tokenization.new_tokenizer import train_tokenizer

    sample = FileCorpus(tuple(sorted((ROOT / "sample").glob("*.txt"))))
    train_tokenizer([sample], "bert", 8_000, True, path.parent, overwrite=False).save_pretrained(path)


def documents(size: int, length: int) -> Iterator[str]:
    words = sorted({word for path in (ROOT / "sample").glob("*.txt") for word in path.read_text().split()})
    text = " ".join(random.Random(0).choices(words, k=BLOCK // 5))[:BLOCK]
    if length == size:
        yield text * (length // BLOCK)
        return
    for number in range(size // length):
        begin = number * length % BLOCK
        yield text[begin : begin + length].strip()


def as_json(texts: Iterator[str]) -> Iterator[bytes]:
    for number, text in enumerate(texts):
        yield (b"[" if number == 0 else b",\n") + json.dumps({"text": text}).encode()
    yield b"]"


def as_csv(texts: Iterator[str]) -> Iterator[bytes]:
    yield b"text\n"
    for text in texts:
        yield '"{}"\n'.format(text.replace('"', '""')).encode()


def as_parquet(texts: Iterator[str], page: str = "parquet") -> Iterator[bytes]:
    import pyarrow.parquet

    buffer = pyarrow.BufferOutputStream()
    # Pages end at a megabyte, but not within a batch of rows.
    pyarrow.parquet.write_table(pyarrow.table({"text": list(texts)}), buffer, write_batch_size=PAGE_ROWS[page])
    yield buffer.getvalue().to_pybytes()


CONTENTS: dict[str, Callable[[Iterator[str]], Iterator[bytes]]] = {
    "txt": lambda texts: (f"{text}\n".encode() for text in texts),
    "csv": as_csv,
    "json": as_json,
    "jsonl": lambda texts: (json.dumps({"text": text}).encode() + b"\n" for text in texts),
    "parquet": as_parquet,
    "pages": partial(as_parquet, page="pages"),
}


if __name__ == "__main__":
    main()
