"""Read one file as documents: all formats give the same texts, plain or compressed, in any script."""

import csv
import gzip
import io
import itertools
import json
import re
import string
import tracemalloc

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from cloze.config.data_arguments import ReaderSettings
from cloze.errors import UserError
from cloze.text import csv_rows, decoding, json_rows, parquet_rows
from cloze.text.columns import choose_column
from cloze.text.corpus import FileCorpus
from cloze.text.csv_rows import find_delimiter
from cloze.text.decoding import file_format, read_lines
from cloze.text.readers import read_rows, read_table, read_text

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
    """Return a function that writes a file, ``read(name, content)``, and returns its documents."""

    def read_file(name: str, content: bytes, column: str | None = None, **dialect) -> list[list[str]]:
        path = tmp_path / name
        path.write_bytes(content)
        is_text = file_format(path) == ".txt"
        return list(
            read_text(path, ReaderSettings(**dialect))
            if is_text
            else read_table(path, column, ReaderSettings(**dialect))
        )

    return read_file


@COMPRESSED
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_documents(name, suffix, read):
    content = COMPRESSIONS[suffix](FORMATS[name](TEXTS))
    assert read(name + suffix, content) == [[text] for text in TEXTS]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_all_parts_of_joined_compressed_files_are_read(suffix, read):
    """``cat a.txt.gz b.txt.gz`` writes such files."""
    compress = COMPRESSIONS[suffix]
    assert read(f"text.txt{suffix}", compress(b"one\n") + compress(b"two\nthree\n")) == [["one"], ["two"], ["three"]]


@COMPRESSED
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "text.parquet"])
def test_byte_order_mark_and_windows_line_ends_are_removed(name, suffix, read):
    content = b"\xef\xbb\xbf" + FORMATS[name](TEXTS).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    assert read(name + suffix, COMPRESSIONS[suffix](content)) == [[text] for text in TEXTS]


@COMPRESSED
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "text.parquet"])
def test_line_ends_of_other_systems_give_the_same_lines(name, suffix, read):
    """CR, as on old Macs, and mixed line ends of joined files (huggingface/datasets#622, #713)."""
    content = FORMATS[name](TEXTS).replace(b"\r\n", b"\n")
    ends = itertools.cycle([b"\n", b"\r", b"\r\n"])
    mixed = re.sub(b"\n", lambda _: next(ends), content)
    for other in (content.replace(b"\n", b"\r"), mixed):
        assert read(name + suffix, COMPRESSIONS[suffix](other)) == [[text] for text in TEXTS]


@pytest.mark.parametrize("length", range(8188, 8196))
def test_carriage_return_and_line_feed_split_by_a_read_are_one_end(length, read):
    """Files are read 8,192 bytes at a time."""
    assert read("a.txt", b"a" * length + b"\r\nb\r\n") == [["a" * length], ["b"]]


def test_lines_ended_by_carriage_returns_are_read_one_by_one(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r" * 9999 + b"\xff")
    assert next(read_lines(tmp_path / "a.txt", ReaderSettings())) == "one\n"


def test_carriage_return_in_a_csv_is_text_only_in_quotes(read):
    assert read("a.csv", b'text,year\rone,1\r"two\rlines",2\r') == [["one"], ["two\nlines"]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "\ufeffone\n\ufeff\ufefftwo\n\ufeff\nth\ufeffree\n"),
        ("a.csv", '\ufefftext\none\n\ufeff"two"\n"th\ufeffree"\n'),
        ("a.jsonl", '\ufeff{"text": "one"}\n\ufeff{"text": "two"}\n{"text": "th\\ufeffree"}'),
    ],
)
def test_byte_order_marks_of_joined_files_are_removed(name, content, read):
    texts = [text for document in read(name, content.encode()) for text in document]
    assert texts == ["one", "two", "three"]


def test_byte_order_marks_in_a_parquet_file_are_removed(read):
    assert read("a.parquet", as_parquet(["\ufeffone", "\ufeff"])) == [["one"]]


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        ("a\nb\nc", [["a"], ["b"], ["c"]]),
        ("a\nb\nc\n", [["a"], ["b"], ["c"]]),
        ("\n\na\nb\n\n\n", [["a"], ["b"]]),  # no blank line between two lines
        ("a\nb\n\nc\n", [["a", "b"], ["c"]]),
        ("\na\n\n \t\n\nb\nc\n\n", [["a"], ["b", "c"]]),
        ("a\n\u3000\nb", [["a"], ["b"]]),  # a line with only an ideographic space is blank
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
    content = COMPRESSIONS[suffix](FORMATS[name](texts))
    assert read(name + suffix, content, quoting="minimal") == [[text] for text in texts]


def test_rows_have_locations(tmp_path):
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress(b"one\n\n \n  two \n"))
    (tmp_path / "table.csv").write_text('title,body\nEmma,"one\nmore"\nUlysses,\nDubliners,two\n')
    found = [row for name in ("text.txt.gz", "table.csv") for row in read_rows(tmp_path / name, ReaderSettings())]
    places = [
        ("text.txt.gz", 1, {"text": "one"}),
        ("text.txt.gz", 4, {"text": "two"}),
        ("table.csv", 3, {"title": "Emma", "body": "one\nmore"}),
        ("table.csv", 4, {"title": "Ulysses", "body": ""}),
        ("table.csv", 5, {"title": "Dubliners", "body": "two"}),
    ]
    assert found == [(f"{tmp_path}/{name}, line {number}", row) for name, number, row in places]


# Table formats


@COMPRESSED
@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_delimiter_of_a_csv_is_detected(delimiter, suffix, read):
    """Excel writes semicolons where the comma is the decimal point (huggingface/datasets#1773)."""
    texts = [*TEXTS, "semicolon; bar | comma, tab\tin one", '"; "', "two\nlines"]
    content = COMPRESSIONS[suffix](as_csv(texts, delimiter))
    assert read(f"a.csv{suffix}", content) == [[text] for text in texts]
    assert read(f"a.csv{suffix}", content, delimiter=delimiter) == [[text] for text in texts]


@pytest.mark.parametrize("filler", ["a; b", "a | b", "a\tb", "a; b | c\td", ""])
def test_delimiters_in_the_text_are_not_detected(filler, read):
    """A single column has no delimiter; a comma in the header and in all rows is the delimiter."""
    assert read("one.csv", f"text\n{filler}x\ny{filler}\n".encode()) == [[f"{filler}x"], [f"y{filler}"]]
    assert read("two.csv", f"text,id\n{filler}x,1\ny{filler},2\n".encode()) == [[f"{filler}x"], [f"y{filler}"]]
    assert read("named.csv", b'"text","a;b"\nx,1;2\ny,3;4\n') == [["x"], ["y"]]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"text;price\nOne, and a half;2,5\nTwo;3,0\n", ["One, and a half", "Two"]),
        (b'text|price\n"A|B"|2\nC;D|3\n', ["A|B", "C;D"]),
        (b"text;price\n", []),
    ],
)
def test_delimiter_is_the_one_as_frequent_in_all_rows_as_in_the_header(content, expected, read, tmp_path):
    assert read("a.csv", content) == [[text] for text in expected]
    (tmp_path / "b.csv").write_bytes(content)
    assert find_delimiter(tmp_path / "b.csv", ReaderSettings()) == chr(content[4])


def test_given_delimiter_is_used(read):
    assert read("a.csv", b"text,more;id\nOne,two;1\n", "text,more", delimiter=";") == [["One,two"]]
    assert read("a.tsv", b"text;id\nOne\ttwo;1\n", delimiter=";") == [["One\ttwo"]]
    assert read("a.csv", b"text:id\nOne:1\n", delimiter=":") == [["One"]]


def test_quotes_are_text_with_quoting_none(read):
    """GLUE's files have no quoting."""
    content = b'text\tlabel\n"To be\tx\nor not to be"\ty\n"last" one\tz\n'
    assert read("a.tsv", content, quoting="none") == [['"To be'], ['or not to be"'], ['"last" one']]
    assert read("a.csv", b'text,label\n"To be,x\n', quoting="none") == [['"To be']]


@pytest.mark.parametrize("quoting", [None, "minimal"])
def test_row_of_a_tsv_that_spans_lines_is_an_error_without_quoting_minimal(quoting, read):
    content = b'text\tlabel\n\nfirst\tw\n"To be\tx\nor not to be"\ty\nlast one\tz\n'
    if quoting:
        assert read("a.tsv", content, quoting=quoting) == [["first"], ["To be\tx\nor not to be"], ["last one"]]
    else:
        with pytest.raises(UserError, match=r"a\.tsv: quotes join lines 4 to 5 into one row: give --csv_quoting none"):
            read("a.tsv", content)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet"])
def test_duplicate_column_names_are_an_error(name, read):
    names = ["text", "id", "text"]
    content = (("\t" if "tsv" in name else ",").join(names) + "\n").encode()
    if "parquet" in name:
        buffer = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, names), buffer)
        content = buffer.getvalue().to_pybytes()
    with pytest.raises(UserError, match=rf"{name}: 2 columns are named text: rename .* \(columns: text, id, text\)"):
        read(name, content)


def test_several_unnamed_columns_are_allowed(read):
    """Spreadsheets write them after the last column."""
    assert read("a.csv", b"text,,\none,,\n") == [["one"]]


@pytest.mark.parametrize(
    "first",
    [
        "The river rises in the hills.",
        "Great phone and battery",
        "它从山上流下来。",
        "text;label",
        "Really?!",
        "河流从山上流下来而且很快",
        "แม่น้ำไหลลงมาจากภูเขาอย่างรวดเร็วมากและไม่หยุด",
        "كيف حالك؟",
        "ወንዙ ይፈሳል።",
    ],
)
def test_text_as_the_name_of_the_only_column_is_an_error(first, read):
    content = f'"{first}"\nA text.\nA text; of two.\n'.encode()
    with pytest.raises(UserError, match=r"the only column name, .*, looks like text: add the header line text"):
        read("a.csv", content)
    assert read("a.csv", content, first) == [["A text."], ["A text; of two."]]


@pytest.mark.parametrize(
    "name",
    ["text", "Text", "review_text", "Review text", "No.1", "body (clean)", "文本", "用户评论文本内容", "ข้อความรีวิว"],
)
def test_header_names_are_not_taken_for_text(name, read):
    assert read("a.csv", f"{name}\nA text.\n".encode()) == [["A text."]]


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "text.txt"])
def test_rows_without_text_are_skipped(name, read):
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
def test_blank_lines_in_tables_are_skipped(name, content, read):
    assert read(name, content) == [["one"], ["two"]]


def test_field_longer_than_the_default_limit_of_the_csv_module_is_read(read):
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
def test_column_is_the_given_one_else_text_else_the_only_one_of_strings(row, asked, column):
    assert choose_column(row, asked, "file") == column


@pytest.mark.parametrize(
    ("row", "asked"), [({"title": "a", "body": "b"}, None), ({"title": 1, "body": 2}, None), ({"title": "a"}, "body")]
)
def test_ambiguous_column_is_an_error_that_lists_the_columns(row, asked):
    with pytest.raises(UserError, match=rf"--text_column.*\(columns: {', '.join(row)}\)"):
        choose_column(row, asked, "file")


def test_given_column_is_read(read):
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
        ("a.csv", b'text,year\none,1\n"two,2\nthree,3\nfour,4\n', "a.csv, lines 3 to 5: unexpected end of data"),
        ("a.csv", b'text,year\none,1\n"t"wo,2\nthree,3\n', "a.csv, line 3: "),
        ("a.jsonl", b'{"text": "one"}\n\n{"text": \n', "a.jsonl, line 3: not JSON"),
        ("a.jsonl", b'{"text": "one"}\n{"txt": "two"}\n', "a.jsonl, line 2: no column 'text' (columns: txt)"),
        ("a.jsonl", b'{"text": "one"}\n{"text": ["two"]}\n', "a.jsonl, line 2: column 'text' holds list, not text"),
        ("a.json", b'[{"text": "one"},\n{"text": "two"},\n]', "a.json, line 3: not JSON"),
        ("a.json", b'[{"text": "one"}, "two"]', "a.json, row 1: not an object"),
        ("a.json", b'[{"text": "one"},\n' + b"[" * 200_000, "a.json, line 2: not JSON (maximum recursion depth"),
        ("a.json", b'[{"text": "one"},\n' + b"9" * 5000, "a.json, line 2: not JSON (Exceeds the limit"),
        ("a.jsonl", b'{"text": "one"}\n' + b"[" * 200_000, "a.jsonl, line 2: not JSON (maximum recursion depth"),
        ("a.jsonl", b'{"text": "one"}\n' + b"9" * 5000, "a.jsonl, line 2: not JSON (Exceeds the limit"),
    ],
)
def test_error_names_file_and_line(name, content, place, read, tmp_path):
    with pytest.raises(UserError) as error:
        read(name, content)
    assert str(error.value).startswith(f"{tmp_path}/{place}")


def test_parquet_in_another_encoding_is_an_error(read):
    """pyarrow decodes a text only when it is read."""
    content = as_parquet(["one", "M\u00fcller"]).replace("\u00fc".encode(), b"\xff\xff")
    with pytest.raises(UserError, match=r"a\.parquet cannot be read as parquet: .*0xff"):
        read("a.parquet", content)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["text.txt", "text.csv", "text.jsonl", "text.parquet"])
def test_truncated_compressed_file_is_an_error(name, suffix, read, tmp_path):
    texts = list(map(str, np.random.default_rng(0).random(9999)))
    content = COMPRESSIONS[suffix](FORMATS[name](texts))
    with pytest.raises(UserError, match=f"{name}{suffix} cannot be read"):
        read(name + suffix, content[: len(content) // 2])


@pytest.mark.parametrize("place", [100, 50_000])
def test_damaged_compressed_file_is_an_error(place, read):
    """Python's gzip raises a different exception for each kind of damage."""
    content = bytearray(gzip.compress(as_txt(map(str, np.random.default_rng(0).random(9999)))))
    content[place : place + 100] = bytes(100)
    with pytest.raises(UserError, match=r"text\.txt\.gz cannot be read"):
        read("text.txt.gz", bytes(content))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.txt", ".txt"), ("a.b.csv", ".csv"), ("a.txt.gz", ".txt"), ("a.jsonl.zst", ".jsonl"), ("a.gz", ""), ("a", "")],
)
def test_format_is_the_suffix_before_the_compression_suffix(name, kind, tmp_path):
    assert file_format(tmp_path / name) == kind


# Long documents


LONG = "a long text " * 1000


@COMPRESSED
@pytest.mark.parametrize("name", FORMATS)
def test_document_longer_than_allowed_is_an_error(name, suffix, read):
    content = COMPRESSIONS[suffix](FORMATS[name](["short", LONG]))
    assert read(name + suffix, content, max_document_chars=13_000) == [["short"], [LONG.strip()]]
    with pytest.raises(UserError, match=r"document longer than 11,000 characters: .* raise --max_document_chars"):
        read(name + suffix, content, max_document_chars=11_000)


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("a.txt", b"one\n" + b"a" * 101 + b"\n", "line 2"),
        ("a.txt", b"one\n\n" + b"two\n" * 40 + b"\nthree\n", "line 36"),
        ("a.csv", b'text\none\n"' + b"two\n" * 40 + b'"\n', "line 3"),
        ("a.json", b'[{"text": "one"},\n\n{"text": "' + b"a" * 101 + b'"}]', "line 3"),
        ("a.jsonl", b'{"text": "one"}\n{"text": "' + b"a" * 101 + b'"}\n', "line 2"),
        ("a.parquet", as_parquet(["one", "a" * 101, "a" * 3]), "row 1"),
        ("a.parquet", as_parquet(["one", "a", "b", "a" * 101]), "row 3"),
        ("a.parquet", as_parquet(["one", "a", "b", string.printable * 300]), "row 3 or after it"),
    ],
)
@pytest.mark.parametrize("chunk", [3, decoding.CHUNK_CHARS])
def test_error_locates_a_document_that_is_too_long(name, content, where, chunk, read, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "CHUNK_CHARS", chunk)
    with pytest.raises(UserError) as error:
        read(name, content, max_document_chars=100)
    assert str(error.value).startswith(f"{tmp_path}/{name}, {where}: document longer than 100 characters")
    read(name, content, max_document_chars=40_000)


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.json", "a.jsonl"])
def test_document_is_not_read_beyond_its_limit(name, tmp_path):
    """40 MB compressed to 40 kB must not fill the memory."""
    start = {"a.txt": b"", "a.csv": b'text\n"', "a.json": b'[{"text": "', "a.jsonl": b'{"text": "'}[name]
    path = tmp_path / f"{name}.gz"
    path.write_bytes(gzip.compress(start + b"a" * 40_000_000, compresslevel=1))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"document longer than 2,000,000 characters"):
        list(FileCorpus((path,), None, ReaderSettings(max_document_chars=2_000_000)).documents())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


def test_rows_of_parquet_are_read_a_few_at_a_time(tmp_path, monkeypatch):
    """Only the text column is read, and not at once although one row group is all of the file."""
    texts = [character * 100_000 for character in string.ascii_letters * 4]
    table = pyarrow.table({"text": texts, "other": [text[::-1] for text in texts]})
    pyarrow.parquet.write_table(
        table, tmp_path / "a.parquet", compression="none", use_dictionary=False, write_batch_size=8
    )
    del table
    sizes = []

    class Recorder(io.FileIO):
        def read(self, size=-1):
            sizes.append(size)
            return super().read(size)

    monkeypatch.setattr(parquet_rows, "open_binary", Recorder)
    before, most = pyarrow.total_allocated_bytes(), 0
    for number, (text,) in enumerate(read_table(tmp_path / "a.parquet", None, ReaderSettings())):
        assert text == texts[number]
        most = max(most, pyarrow.total_allocated_bytes() - before)
    assert number == len(texts) - 1
    assert most < 5_000_000
    assert sum(sizes) < 1.3 * sum(map(len, texts))
    assert -1 < min(sizes) <= max(sizes) <= 2_000_000


def test_only_the_text_column_of_a_parquet_file_is_read(read):
    """Damage in another column does not matter."""
    content = pyarrow.BufferOutputStream()
    table = pyarrow.table({"text": ["x"] * 99, "other": ["y"] * 98 + ["M\u00fcller"]})
    pyarrow.parquet.write_table(table, content)
    broken = content.getvalue().to_pybytes().replace("\u00fc".encode(), b"\xff\xff")
    assert read("a.parquet", broken, "text") == [["x"]] * 99


def rows_of_csv(path, settings):
    try:
        yield from csv_rows._read_csv_rows(path, ",", settings)
    except csv.Error as error:
        yield str(error)


@pytest.mark.parametrize("quoting", [None, "none"])
def test_long_csv_rows_equal_those_of_the_csv_module(quoting, tmp_path, monkeypatch):
    rng, path, settings = np.random.default_rng(0), tmp_path / "a.csv", ReaderSettings(quoting=quoting)
    for _ in range(300):
        path.write_text("".join(rng.choice(["a", "b", '"', ",", "\n", '""', '"a"'], size=rng.integers(30))))
        found = []
        for chunk in (10**6, 1, 3):
            monkeypatch.setattr(decoding, "CHUNK_CHARS", chunk)
            found.append(list(rows_of_csv(path, settings)))
        assert found[0] == found[1] == found[2]


def test_json_array_read_in_chunks_equals_json_loads(tmp_path, monkeypatch):
    """Values, errors and their lines are equal at any chunk size."""
    rng, path = np.random.default_rng(0), tmp_path / "a.json"
    rows = [{"text": '\u00e9\n"x'}, {"a": [1, -2.5e3, None, {"b": [True]}], "text": "\U0001f600" * 3}, {}, {"n": 1.5}]
    for number in range(400):
        text = json.dumps(
            rng.choice(rows, size=rng.integers(5)).tolist(), indent=number % 2, ensure_ascii=number % 3 > 0
        )
        if number % 4:
            place = int(rng.integers(1, len(text) + 1))
            mistake = rng.choice(["", ",", "]", "\n", "x", '"', "}", " "])
            text = text[:place] + mistake + text[place + rng.integers(3) :]
        path.write_text(text)
        try:
            expected = [json.loads(text)]
        except json.JSONDecodeError as error:
            expected = [f"{path}, line {error.lineno}: not JSON ({error.msg})"]
            # Python 3.13 names it, at the comma; between rows, the reader says what earlier versions do.
            if error.msg == "Illegal trailing comma before end of array":
                line = text.count("\n", 0, text.index("]", error.pos)) + 1
                expected.append(f"{path}, line {line}: not JSON (Expecting value)")
        for chunk in (1, 2, 7, 20, 10**6):
            monkeypatch.setattr(decoding, "CHUNK_CHARS", chunk)
            try:
                found = list(json_rows._read_array(path, ReaderSettings()))
            except UserError as error:
                found = str(error).partition(": the file")[0]
            assert found in expected, (text, chunk)
