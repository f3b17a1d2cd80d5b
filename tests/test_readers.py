"""One file -> documents: every format gives the same texts, plain or compressed, whatever script they are in."""

import csv
import gzip
import io
import itertools
import json
import re

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from cloze.arguments import UserError
from cloze.readers import choose_column, file_format, read_lines, read_table, read_text, read_texts

TEXTS = [
    "Call me Ishmael, he said.",
    'A "quoted" word, and a comma',
    "한국어 문장입니다.",
    "中文没有空格。",
    "نص عربي من اليمين",
    "emoji 👩‍👩‍👧 and e\u0301 as two characters",
    "a line separator\u2028and next line\x85and form feed\x0cwithin a line",
    "a no-break\u00a0space, a zero-width\u200bspace, a soft\u00adhyphen",
]


def as_txt(texts) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def as_csv(texts, delimiter=",") -> bytes:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows([("id", "text"), *enumerate(texts)])
    return file.getvalue().encode()


def as_json(texts) -> bytes:
    return json.dumps([{"id": number, "text": text} for number, text in enumerate(texts)], indent=1).encode()


def as_json_lines(texts) -> bytes:
    lines = (json.dumps({"id": number, "text": text}, ensure_ascii=False) for number, text in enumerate(texts))
    return as_txt(lines)


def as_parquet(texts) -> bytes:
    buffer = pyarrow.BufferOutputStream()
    table = pyarrow.table({"id": list(range(len(texts))), "text": texts})
    pyarrow.parquet.write_table(table, buffer, row_group_size=3)
    return buffer.getvalue().to_pybytes()


FORMATS = {
    "text.txt": as_txt,
    "text.csv": as_csv,
    "text.tsv": lambda texts: as_csv(texts, "\t"),
    "array.json": as_json,
    "lines.json": as_json_lines,
    "text.jsonl": as_json_lines,
    "text.parquet": as_parquet,
}
COMPRESSIONS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}
COMPRESSED = pytest.mark.parametrize("suffix", COMPRESSIONS)


@pytest.fixture
def read(tmp_path):
    """``read(name, content)`` writes a file and gives its documents."""

    def read_file(name: str, content: bytes, column: str | None = None) -> list[list[str]]:
        path = tmp_path / name
        path.write_bytes(content)
        return list(read_text(path) if file_format(path) == ".txt" else read_table(path, column))

    return read_file


@COMPRESSED
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_documents(name, suffix, read):
    content = COMPRESSIONS[suffix](FORMATS[name](TEXTS))
    assert read(name + suffix, content) == [[text] for text in TEXTS]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_parts_compressed_one_by_one_are_all_read(suffix, read):
    """As ``cat a.txt.gz b.txt.gz`` makes them."""
    compress = COMPRESSIONS[suffix]
    assert read(f"text.txt{suffix}", compress(b"one\n") + compress(b"two\nthree\n")) == [["one"], ["two"], ["three"]]


@COMPRESSED
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "text.parquet"])
def test_byte_order_mark_and_windows_line_ends_leave_no_trace(name, suffix, read):
    content = b"\xef\xbb\xbf" + FORMATS[name](TEXTS).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    assert read(name + suffix, COMPRESSIONS[suffix](content)) == [[text] for text in TEXTS]


@COMPRESSED
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "text.parquet"])
def test_lines_of_other_systems_are_the_same_lines(name, suffix, read):
    """CR, as of old Macs, and files that were joined of several kinds (huggingface/datasets#622, #713)."""
    content = FORMATS[name](TEXTS).replace(b"\r\n", b"\n")
    ends = itertools.cycle([b"\n", b"\r", b"\r\n"])
    mixed = re.sub(b"\n", lambda _: next(ends), content)
    for other in (content.replace(b"\n", b"\r"), mixed):
        assert read(name + suffix, COMPRESSIONS[suffix](other)) == [[text] for text in TEXTS]


@pytest.mark.parametrize("length", range(8188, 8196))
def test_carriage_return_and_line_feed_are_one_end_wherever_a_read_ends(length, read):
    """Files are read in portions of 8,192 bytes."""
    assert read("a.txt", b"a" * length + b"\r\nb\r\n") == [["a" * length], ["b"]]


def test_lines_ended_by_carriage_returns_are_read_one_by_one(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r" * 9999 + b"\xff")
    assert next(read_lines(tmp_path / "a.txt")) == "one\n"


def test_carriage_return_in_a_csv_is_text_in_quotes_alone(read):
    assert read("a.csv", b'text,year\rone,1\r"two\rlines",2\r') == [["one"], ["two\nlines"]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "\ufeffone\n\ufeff\ufefftwo\n\ufeff\nth\ufeffree\n"),
        ("a.csv", '\ufefftext\none\n\ufeff"two"\n"th\ufeffree"\n'),
        ("a.jsonl", '\ufeff{"text": "one"}\n\ufeff{"text": "two"}\n{"text": "th\\ufeffree"}'),
    ],
)
def test_byte_order_marks_of_joined_files_are_no_text(name, content, read):
    texts = [text for document in read(name, content.encode()) for text in document]
    assert texts == ["one", "two", "three"]


def test_byte_order_mark_in_a_parquet_file_is_no_text(read):
    assert read("a.parquet", as_parquet(["\ufeffone", "\ufeff"])) == [["one"]]


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        ("a\nb\nc", [["a"], ["b"], ["c"]]),
        ("a\nb\nc\n", [["a"], ["b"], ["c"]]),
        ("\n\na\nb\n\n\n", [["a"], ["b"]]),  # blank lines, but none between two lines
        ("a\nb\n\nc\n", [["a", "b"], ["c"]]),
        ("\na\n\n \t\n\nb\nc\n\n", [["a"], ["b", "c"]]),
        ("a\n\u3000\nb", [["a"], ["b"]]),  # a line of nothing but an ideographic space is blank, too
        ("a\r\n\r\nb\r\nc\r\n", [["a"], ["b", "c"]]),
        ("  a \n\tb\t\n", [["a"], ["b"]]),
        ("", []),
        ("\ufeff", []),
        ("\n \n\r\n", []),
        ("a\rb\r\rc\r", [["a", "b"], ["c"]]),
        ("a\nb\r\n\rc\r\r\nd", [["a", "b"], ["c"], ["d"]]),
    ],
)
def test_blank_lines_separate_documents_else_each_line_is_one(text, documents, read):
    assert read("text.txt", text.encode()) == documents


@COMPRESSED
@pytest.mark.parametrize("name", ["text.csv", "text.tsv", "array.json", "text.jsonl", "text.parquet"])
def test_row_of_several_lines_is_one_text(name, suffix, read):
    texts = ["first line\nsecond line\n\nafter a blank one", "another, row"]
    assert read(name + suffix, COMPRESSIONS[suffix](FORMATS[name](texts))) == [[text] for text in texts]


def test_texts_are_told_with_their_place(tmp_path):
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress(b"one\n\n \n  two \n"))
    (tmp_path / "table.csv").write_text('title,body\nEmma,"one\nmore"\nUlysses,\nDubliners,two\n')
    found = [*read_texts(tmp_path / "text.txt.gz", None), *read_texts(tmp_path / "table.csv", "body")]
    places = [
        ("text.txt.gz", 1, "one"),
        ("text.txt.gz", 4, "two"),
        ("table.csv", 3, "one\nmore"),
        ("table.csv", 5, "two"),
    ]
    assert found == [(f"{tmp_path}/{name}, line {number}", text) for name, number, text in places]


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "text.txt"])
def test_rows_without_text_are_left_out(name, read):
    assert read(name, FORMATS[name](["", "one", " \t ", "two"])) == [["one"], ["two"]]
    if "csv" not in name and "tsv" not in name:
        assert read(name, FORMATS[name]([None, "one", None])) == [["one"]]


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "text.txt"])
def test_table_without_rows_has_no_documents(name, read):
    assert read(name, FORMATS[name]([])) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.csv", b"text\none\n\n\ntwo\n"),
        ("text.csv", b"\n\ntext\none\ntwo\n"),
        ("text.jsonl", b'\n{"text": "one"}\n\n{"text": "two"}\n\n'),
        ("text.json", b'\n\n[{"text": "one"},\n\n{"text": "two"}]\n'),
    ],
)
def test_blank_lines_in_tables_are_no_rows(name, content, read):
    assert read(name, content) == [["one"], ["two"]]


def test_field_longer_than_the_csv_module_allows_by_default(read):
    text = "long " * 100_000
    assert read("text.csv", as_csv([text])) == [[text.strip()]]


@pytest.mark.parametrize(
    ("row", "asked", "column"),
    [
        ({"text": "a", "title": "b"}, "title", "title"),
        ({"text": "a", "title": "b"}, None, "text"),
        ({"text": None, "title": "b"}, None, "text"),
        ({"id": 1, "body": "a", "stars": 4.5, "tags": ["b"]}, None, "body"),
        ({"Text": "a"}, None, "Text"),
    ],
)
def test_column_is_the_one_asked_for_else_text_else_the_only_one_of_strings(row, asked, column):
    assert choose_column(row, asked, "file") == column


@pytest.mark.parametrize(
    ("row", "asked"), [({"title": "a", "body": "b"}, None), ({"title": 1, "body": 2}, None), ({"title": "a"}, "body")]
)
def test_column_in_doubt_is_an_error_that_lists_the_columns(row, asked):
    with pytest.raises(UserError, match=rf"--text_column.*\(columns: {', '.join(row)}\)"):
        choose_column(row, asked, "file")


def test_column_asked_for_is_read(read):
    content = b"title,body\nEmma,Emma Woodhouse\nUlysses,Stately\n"
    assert read("books.csv", content, "body") == [["Emma Woodhouse"], ["Stately"]]
    assert read("books.csv", content, "title") == [["Emma"], ["Ulysses"]]


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.txt", b"one\ntwo\n\xff\n", "a.txt, line 3: byte 0xff is not UTF-8"),
        ("a.txt", b"one\r\ntwo\rthr\xe9e\n", "a.txt, line 3: byte 0xe9 is not UTF-8"),
        ("a.txt", b"one\r" * 9999 + b"\xc3", "a.txt, line 10000: byte 0xc3 is not UTF-8"),
        ("a.txt", "one\n".encode("utf-16"), "a.txt, line 1: byte 0xff is not UTF-8"),
        ("a.csv", b'text,year\n"two\nlines",1\nthree,2,3\n', "a.csv, line 4: 3 fields, but the header has 2"),
        ("a.csv", b'text,year\n"two\nlines",1\nthree\n', "a.csv, line 4: 1 fields, but the header has 2"),
        ("a.jsonl", b'{"text": "one"}\n\n{"text": \n', "a.jsonl, line 3: not JSON"),
        ("a.jsonl", b'{"text": "one"}\n{"txt": "two"}\n', "a.jsonl, line 2: no 'text' (columns: txt)"),
        ("a.jsonl", b'{"text": "one"}\n{"text": ["two"]}\n', "a.jsonl, line 2: 'text' holds list, not text"),
        ("a.json", b'[{"text": "one"},\n{"text": "two"},\n]', "a.json, line 3: not JSON"),
        ("a.json", b'[{"text": "one"}, "two"]', "a.json, row 1: not an object"),
    ],
)
def test_error_names_file_and_line(name, content, place, read, tmp_path):
    with pytest.raises(UserError) as error:
        read(name, content)
    assert str(error.value).startswith(f"{tmp_path}/{place}")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["text.txt", "text.csv", "text.jsonl", "text.parquet"])
def test_compressed_file_that_is_cut_off_is_an_error_not_a_shorter_corpus(name, suffix, read, tmp_path):
    texts = list(map(str, np.random.default_rng(0).random(9999)))
    content = COMPRESSIONS[suffix](FORMATS[name](texts))
    with pytest.raises(UserError, match=f"{name}{suffix} cannot be read"):
        read(name + suffix, content[: len(content) // 2])


@pytest.mark.parametrize("place", [100, 50_000])
def test_compressed_file_that_is_damaged_is_an_error(place, read):
    """Python's gzip has an exception for each kind of damage."""
    content = bytearray(gzip.compress(as_txt(map(str, np.random.default_rng(0).random(9999)))))
    content[place : place + 100] = bytes(100)
    with pytest.raises(UserError, match=r"text\.txt\.gz cannot be read"):
        read("text.txt.gz", bytes(content))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.txt", ".txt"), ("a.b.csv", ".csv"), ("a.txt.gz", ".txt"), ("a.jsonl.zst", ".jsonl"), ("a.gz", ""), ("a", "")],
)
def test_format_is_the_suffix_below_that_of_the_compression(name, kind, tmp_path):
    assert file_format(tmp_path / name) == kind
