"""Find the files of a corpus, hold documents out, and read data sets of the datasets library from disk."""

import errno
import glob
import json
import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from cloze.config.data_arguments import DataTrainingArguments, ReaderSettings
from cloze.errors import UserError
from cloze.text.corpus import (
    FileCorpus,
    HubCorpus,
    digest_file,
    find_change,
    log_columns,
    read_documents,
    split_documents,
)
from cloze.text.decoding import FORMATS, file_format
from cloze.text.files import find_files
from cloze.text.sources import find_corpora, warn_of_overlap
from tests.utils import SAMPLE

TREE = {
    "b.txt": "b",
    "a.txt": "a",
    "a.csv": "text\nc",
    "notes.md": "no format of ours",
    "deep/10.txt.gz": "",
    "deep/2.jsonl.zst": "",
    "deep/er/x.txt": "x",
    "deep/er/picture.png": "",
    "empty/readme": "",
    "odd name [1].txt": "brackets",
}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Change to a folder that contains TREE."""
    names = list(TREE)
    random.Random(0).shuffle(names)  # some file systems list files in the order of creation
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(TREE[name])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "files"),
    [
        ("a.txt", "a.txt"),
        ("b.txt a.txt", "b.txt a.txt"),  # as given
        ("*.txt", "a.txt|b.txt|odd name [1].txt"),
        ("[ab].txt", "a.txt b.txt"),
        ("?.csv ?.txt", "a.csv a.txt b.txt"),
        ("**/*.txt", "a.txt|b.txt|deep/er/x.txt|odd name [1].txt"),
        ("deep", "deep/10.txt.gz deep/2.jsonl.zst deep/er/x.txt"),
        ("deep/", "deep/10.txt.gz deep/2.jsonl.zst deep/er/x.txt"),
        (".", "a.csv|a.txt|b.txt|deep/10.txt.gz|deep/2.jsonl.zst|deep/er/x.txt|odd name [1].txt"),
        ("a.txt a.txt", "a.txt"),
        ("b.txt *.txt", "b.txt|a.txt|odd name [1].txt"),
        ("deep/er deep", "deep/er/x.txt deep/10.txt.gz deep/2.jsonl.zst"),
        ("a.txt ./a.txt deep/../a.txt {tree}/a.txt", "a.txt"),
    ],
)
def test_files_come_once_and_in_a_fixed_order(patterns, files, tree):
    found = find_files(patterns.format(tree=tree).split(), "--train_file")
    assert found == tuple(Path(name) for name in files.split("|" if "|" in files else " "))


def test_file_with_brackets_in_its_name_is_found_by_its_name(tree):
    assert find_files(["odd name [1].txt"], "--train_file") == (Path("odd name [1].txt"),)


def test_home_folder_is_expanded(tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree))
    assert find_files(["~/a.txt"], "--train_file") == (tree / "a.txt",)


@pytest.mark.parametrize("pattern", ["nowhere.txt", "*.text", "empty", "notes.md", "*.md"])
def test_pattern_without_text_is_an_error_with_the_flag(pattern, tree):
    with pytest.raises(UserError, match=r"^--validation_file: .*") as error:
        find_files(["a.txt", pattern], "--validation_file")
    assert pattern.removeprefix("*") in str(error.value)


def test_documents_of_several_files_follow_each_other(tree):
    corpus = FileCorpus(find_files(["b.txt", "a.csv", "deep/er"], "--train_file"))
    assert list(read_documents(corpus)) == [["b"], ["c"], ["x"]]


def test_file_ends_its_last_document(tree):
    (tree / "a.txt").write_text("one\n\ntwo")
    assert list(FileCorpus((Path("a.txt"), Path("b.txt"))).documents()) == [["one"], ["two"], ["b"]]


def test_corpus_without_documents_is_an_error(tree):
    (tree / "a.txt").write_text("\n")
    with pytest.raises(UserError, match=r"a\.txt holds no text"):
        next(read_documents(FileCorpus((Path("a.txt"),))))


def test_identity_changes_with_what_the_documents_depend_on(tree):
    """A key that is too loose reuses stale caches; one that is too strict never reuses any."""
    path, other = Path("a.txt"), Path("b.txt")
    identity = FileCorpus((path,)).identity
    stat = path.stat()
    assert FileCorpus((path.resolve(),)).identity == identity
    assert FileCorpus((path,), "text").identity != identity
    assert FileCorpus((path,), None, ReaderSettings(delimiter=";")).identity != identity
    assert FileCorpus((other,)).identity != identity
    assert FileCorpus((path, other)).identity not in (identity, FileCorpus((other, path)).identity)

    path.write_text("longer")  # at the same time
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert FileCorpus((path,)).identity != identity
    path.write_text("A")  # of the same length
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert FileCorpus((path,)).identity != identity
    path.write_text("a")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert FileCorpus((path,)).identity == identity


# Folders


@pytest.mark.parametrize("pattern", [".", "**/*.txt", "**/*.t*"])
def test_links_in_a_loop_are_followed_once(pattern, tree, monkeypatch):
    expected = find_files([pattern], "--train_file")
    for number, folder in enumerate((".", "deep", "deep/er", "empty")):
        for name in ("loop", "z"):
            (tree / folder / f"{name}{number}").symlink_to(tree, target_is_directory=True)
    (tree / "deep" / "itself").symlink_to("itself")
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path=".": listed.append(path) or scandir(path))
    assert find_files([pattern], "--train_file") == expected
    assert len(listed) < 50, "all paths with 8 links in a loop would be 8**40"


def test_linked_folder_is_found_by_the_first_of_its_paths(tree):
    (tree / "cellar").symlink_to(tree / "deep", target_is_directory=True)
    for pattern in (".", "**/*[tz]"):
        found = find_files([pattern], "--train_file")
        assert found == tuple(map(Path, sorted(map(str, found), key=lambda name: Path(name))))
        names = {str(path) for path in found if len(path.parts) > 1}
        assert names == {"cellar/10.txt.gz", "cellar/2.jsonl.zst", "cellar/er/x.txt"}


def as_before(pattern: str) -> tuple[Path, ...]:
    """Return the files that glob.glob finds."""
    paths = glob.glob(f"{pattern}/**" if os.path.isdir(pattern) else pattern, recursive=True)
    return tuple(path for path in sorted(set(map(Path, paths))) if path.is_file() and file_format(path) in FORMATS)


@pytest.mark.parametrize(
    "pattern", [".", "a", "a/**/*.t?t", "**/[ab]/*.txt", "**/a/**/*.txt", "./*/**", "{tmp}/**/b/**"]
)
def test_ordinary_folders_are_read_in_the_order_of_glob(pattern, tmp_path, monkeypatch):
    """The order of the files determines the weights."""
    monkeypatch.chdir(tmp_path)
    rng, folders = random.Random(0), [tmp_path, tmp_path / "a"]
    folders[1].mkdir()
    for number in range(90):
        folder = rng.choice(folders) / rng.choice(["a", "b", "a.b", "A", ".hidden", "a-b", "\u00e4", "10", "9"])
        folder.mkdir(exist_ok=True)
        folders.append(folder)
        (folder / f"{rng.choice(['x', 'y', '.z', 'a'])}{number % 7}.txt").touch()
    pattern = pattern.format(tmp=tmp_path)
    assert len(as_before(pattern)) > 3
    assert find_files([pattern], "--train_file") == as_before(pattern)


def test_folder_that_cannot_be_read_is_an_error(tree, monkeypatch):
    """Its files would be missing silently otherwise."""
    scandir = os.scandir

    def refuse(path="."):
        if str(path).endswith("er"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for pattern in (".", "deep", "**/*.txt"):
        with pytest.raises(UserError, match=r"^--train_file: .*deep/er cannot be read \(Permission denied\): make it"):
            find_files([pattern], "--train_file")


def make_own(tree):
    """Create one folder of each kind that these scripts write, with a file that looks like text."""
    for name in ("out/checkpoint-3/SHA256SUMS", "run/config.json", "compared/comparison.json"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        for file in (Path(name).name, "recipe.yaml", "vocab.txt"):
            (tree / name).with_name(file).touch()
    for name in ("out/tokenizer.json", "cache/cloze/corpus-1/info.json", "old/cloze/tokenizer-2/tokenizer.json"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    # Files of the user.
    (tree / "deep" / "recipe.yaml").touch()
    (tree / "deep" / "cloze").mkdir()
    (tree / "deep" / "cloze" / "mine.txt").touch()


@pytest.mark.parametrize("pattern", [".", "**/*.*[tnv]", "*/*.*[tn]", "*/*/*/*.*", "{tree}"])
def test_outputs_of_the_scripts_are_skipped_and_logged(pattern, tree, caplog):
    before = find_files([pattern.format(tree=tree), "a.txt"], "--train_file") if pattern != "*/*/*/*.*" else ()
    make_own(tree)
    (tree / "deep" / "er" / "er").mkdir()
    (tree / "deep" / "er" / "er" / "y.txt").touch()
    own = {"--output_dir": Path("out"), "--cache_dir": tree / "cache"}
    found = find_files([pattern.format(tree=tree), "a.txt"], "--train_file", own)
    added = {"deep/cloze/mine.txt", "deep/er/er/y.txt", "a.txt"}
    assert {str(path.resolve().relative_to(tree)) for path in set(found) - set(before)} <= added
    assert set(before) <= set(found)
    logged = [record.message for record in caplog.records if " skips " in record.message]
    assert any(re.match(r"--train_file skips .*(out|cache), an output folder of", message) for message in logged)
    if pattern == ".":
        folders = [message.split()[2].rstrip(",") for message in logged]
        assert folders == ["cache", "compared", "old/cloze", "out", "run"]


def test_named_file_is_read_wherever_it_is(tree):
    """A file, a folder in output_dir, a folder that another run wrote."""
    make_own(tree)
    own = {"--output_dir": Path("out"), "--cache_dir": Path("cache")}
    for pattern, file in (("out/tokenizer.json",) * 2, ("out/checkpoint-3", "out/checkpoint-3/vocab.txt")):
        assert find_files([pattern], "--train_file", own) == (Path(file),)
    assert find_files(["run/*.txt"], "--train_file", own) == (Path("run/vocab.txt"),)
    assert Path("a.txt") in find_files(["."], "--train_file", {"--output_dir": Path("..")})


@pytest.mark.parametrize("pattern", [".", "*.txt", "**/*.txt", "{tree}"])
@pytest.mark.parametrize("flag", ["--output_dir", "--cache_dir"])
def test_output_folder_that_is_the_text_folder_is_an_error(flag, pattern, tree):
    with pytest.raises(UserError, match=rf"^{flag} {tree} is also the folder of --train_file, .*: give another"):
        find_files([pattern.format(tree=tree)], "--train_file", {flag: tree})
    assert find_files(["a.txt"], "--train_file", {flag: tree}) == (Path("a.txt"),)


def test_output_folder_is_skipped_in_both_corpora_and_an_error_in_a_data_set(tree):
    make_own(tree)
    data_args = DataTrainingArguments(train_file=".", validation_file="*/*.*[tn]")
    found = find_corpora(data_args, True, True, output_dir="out", cache_dir="cache")
    for corpus in found.all:
        assert not {"out", "cache", "run"} & {path.parts[0] for path in corpus.files}
    data_args = DataTrainingArguments(dataset_name=".")
    with pytest.raises(UserError, match=r"^--output_dir out is inside \., where all files are read as data: give"):
        find_corpora(data_args, True, True, output_dir="out")


def test_pipe_is_an_error_if_named_and_skipped_in_a_folder(tree):
    os.mkfifo(tree / "deep" / "pipe.txt")
    assert Path("deep/pipe.txt") not in find_files(["deep"], "--train_file")
    for name in ("deep/pipe.txt", "/dev/null"):
        with pytest.raises(UserError, match=rf"^--train_file: {name} is a pipe or a device, .*: give a file"):
            find_files([name], "--train_file")


# Content


def test_content_digest_ignores_name_and_time(tmp_path):
    data = random.Random(0).randbytes(1_000_000)
    (tmp_path / "a").write_bytes(data)
    content = digest_file(tmp_path / "a")
    (tmp_path / "b").write_bytes(data)
    os.utime(tmp_path / "b", (1, 1))
    assert digest_file(tmp_path / "b") == content
    for place in (0, 500_000, 999_999):
        changed = bytearray(data)
        changed[place] ^= 1
        (tmp_path / "b").write_bytes(changed)
        assert digest_file(tmp_path / "b") != content
    (tmp_path / "b").write_bytes(data[:-1])
    assert digest_file(tmp_path / "b") != content


def test_content_digest_of_a_thousand_files_is_fast(tmp_path):
    for number in range(1000):
        with open(tmp_path / f"{number}.txt", "wb") as file:
            file.truncate(10_000_000)
    corpus = FileCorpus(find_files([str(tmp_path)], "--train_file"))
    begin = time.process_time()
    assert len(corpus.content) == 1000
    assert time.process_time() - begin < 1


def test_first_changed_file_is_named(tree):
    files = tuple(map(Path, ("a.txt", "b.txt", "deep/er/x.txt")))
    content = json.loads(json.dumps(FileCorpus(files).content))
    assert find_change(content, FileCorpus(files)) is None
    assert find_change(None, FileCorpus(files)) is None
    (tree / "b.txt").write_text("c")
    assert re.fullmatch(r"b\.txt \(last changed .*\) differs", find_change(content, FileCorpus(files)))
    (tree / "b.txt").write_text("b")
    for changed, name in ((files[1:], "b.txt"), (files[:2], "b.txt"), ((*files, Path("a.csv")), "a.csv")):
        problem = find_change(content, FileCorpus(changed))
        assert problem.startswith(f"{name} (last changed ")
        assert problem.endswith(f" differs, the first of {len(changed)} files to differ; the checkpoint has 3")


@pytest.mark.parametrize("change", ["deleted", "cut", "longer", "replaced"])
def test_file_that_changes_while_it_is_read_is_an_error(change, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("one two\n" * 10_000)
    corpus = FileCorpus((path,))
    documents = corpus.documents()
    next(documents)
    if change == "deleted":
        path.unlink()
    elif change == "replaced":
        path.write_text("two one\n" * 10_000)
    else:
        os.truncate(path, 8 * (5_000 if change == "cut" else 20_000))
    problem = "cannot be read" if change == "deleted" else "changed during the run"
    with pytest.raises(UserError, match=rf"{path} {problem}.*: restore it"):
        list(documents)


# Held-out documents


@pytest.mark.parametrize(
    ("documents", "percentage", "held_out"), [(100, 5, 5), (2, 5, 1), (10, 1e-9, 1), (60, 10, 6), (1000, 99.9, 999)]
)
def test_split_is_disjoint_complete_and_of_the_size_asked_for(documents, percentage, held_out):
    train, validation = split_documents(documents, percentage, np.random.default_rng(0))
    assert len(validation) == held_out
    assert sorted([*train, *validation]) == list(range(documents))
    assert list(train) == sorted(train)
    assert list(validation) == sorted(validation)


def test_split_depends_on_the_seed_alone_and_is_spread_over_the_text():
    """The first documents of a corpus often differ from the others."""
    splits = [split_documents(1000, 10, np.random.default_rng(seed))[1] for seed in (1, 1, 2)]
    assert list(splits[0]) == list(splits[1])
    assert list(splits[0]) != list(splits[2])
    quarters, _ = np.histogram(splits[0], bins=4, range=(0, 1000))
    assert quarters.min() >= 10


@pytest.mark.parametrize(("documents", "percentage"), [(1, 5), (2, 90), (10, 99)])
def test_split_that_leaves_nothing_to_train_on_is_an_error(documents, percentage):
    with pytest.raises(UserError, match=f"of {documents} documents leaves none to train on: give --validation_file"):
        split_documents(documents, percentage, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("documents", "percentage", "held_out"), [(4, 5, 2), (30, 5, 2), (100, 5, 5), (4, 50, 2), (1000, 99.8, 998)]
)
def test_split_leaves_the_minimum_on_each_side(documents, percentage, held_out):
    """Pairs need two documents, because a random sentence comes from another document."""
    train, validation = split_documents(documents, percentage, np.random.default_rng(0), at_least=2)
    assert (len(train), len(validation)) == (documents - held_out, held_out)
    assert sorted([*train, *validation]) == list(range(documents))


@pytest.mark.parametrize(
    ("documents", "percentage", "left"), [(1, 5, "none"), (2, 5, "none"), (3, 5, "1"), (10, 90, "1"), (10, 99, "none")]
)
def test_split_that_leaves_too_few_is_an_error(documents, percentage, left):
    with pytest.raises(
        UserError, match=rf"of {documents} documents leaves {left} to train on \(pairs need 2 on each side\): give"
    ):
        split_documents(documents, percentage, np.random.default_rng(0), at_least=2)


# Corpora for training and for evaluation


def test_without_training_and_evaluation_no_text_is_searched():
    """To predict alone, the text that a recipe names may be missing."""
    assert corpora(do_train=False, do_eval=False, train_file=["nowhere.txt"]) == [None, None]
    assert corpora(do_train=False, do_eval=False, dataset_name="nowhere") == [None, None]


def corpora(do_train=True, do_eval=True, **data):
    """Return the training and the validation text, None if not needed; neither has a name."""
    found = find_corpora(DataTrainingArguments(**data), do_train, do_eval)
    assert {*found.train, *found.validation} <= {""}
    return [texts.get("") for texts in found]


def test_named_texts_are_found_by_their_names(tree):
    files = {"train_file": ["law=a.txt", "law=b.txt", "general=deep"], "validation_file": ["b.txt"]}
    found = find_corpora(DataTrainingArguments(**files), do_train=True, do_eval=True)
    assert [path.name for path in found.train["law"].files] == ["a.txt", "b.txt"]
    assert {path.parts[0] for path in found.train["general"].files} == {"deep"}
    assert list(found.train) == ["law", "general"]
    assert found.validation[""].name == "b.txt"
    assert found.all == [*found.train.values(), *found.validation.values()]


@pytest.mark.parametrize(
    ("do_train", "do_eval", "with_validation", "expected"),
    [
        (True, True, True, ("a.txt", "b.txt")),
        (True, True, False, ("a.txt", None)),
        (True, False, True, ("a.txt", None)),
        (False, True, True, (None, "b.txt")),
        (False, True, False, ("a.txt", None)),  # its held-out documents are evaluated
    ],
)
def test_only_what_is_needed_is_read(do_train, do_eval, with_validation, expected, tree):
    found = corpora(do_train, do_eval, train_file="a.txt", validation_file="b.txt" if with_validation else None)
    assert tuple(corpus and corpus.name for corpus in found) == expected


def test_text_that_is_trained_and_evaluated_on_is_a_warning(tree, caplog):
    files = {"train_file": ["law=a.txt", "general=b.txt"], "validation_file": ["law=deep/a.txt", "general=./b.txt"]}
    (tree / "deep" / "a.txt").write_text("another text of the same name")
    found = find_corpora(DataTrainingArguments(**files), do_train=True, do_eval=True)
    warn_of_overlap(found._replace(validation={"law": found.validation["law"]}))
    assert not caplog.messages
    warn_of_overlap(found)
    (message,) = caplog.messages
    assert message.startswith("b.txt is in --validation_file and in --train_file: figures on a text that was trained")
    caplog.clear()
    warn_of_overlap(found._replace(validation=found.train))
    assert caplog.messages[0].startswith("a.txt and 1 more files are in --validation_file and in --train_file")


def test_column_is_passed_to_the_reader(tree):
    (tree / "a.csv").write_text("title,body\nEmma,Woodhouse\n")
    train, validation = corpora(train_file="a.csv", validation_file="a.csv", text_column="body")
    assert list(train.documents()) == list(validation.documents()) == [["Woodhouse"]]


# Data sets of the datasets library


def write_parquet(path: Path, rows: list[dict]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def rows_of(*texts) -> list[dict]:
    return [{"id": number, "text": text} for number, text in enumerate(texts)]


@pytest.fixture(params=[write_parquet, write_jsonl], ids=["parquet", "jsonl"])
def make_hub(request, tmp_path):
    """Return a function that writes splits, ``make_hub(train=rows, ...)``, and returns the path of the data set."""

    def make(**splits) -> str:
        for split, rows in splits.items():
            request.param(tmp_path / f"{split}.{request.param.__name__.removeprefix('write_')}", rows)
        return str(tmp_path)

    return make


STREAMED = pytest.mark.parametrize("streaming", [False, True], ids=["memory map", "streamed"])


@STREAMED
def test_hub_splits_are_the_corpora(make_hub, streaming):
    name = make_hub(train=rows_of("one", "", "두 번째\u2028줄", None, " three "), validation=rows_of("four"))
    train, validation = corpora(dataset_name=name, streaming=streaming)
    assert isinstance(train, HubCorpus)
    assert isinstance(train.documents(), Iterator)
    assert list(train.documents()) == [["one"], ["두 번째\u2028줄"], ["three"]]
    assert list(train.documents()) == [["one"], ["두 번째\u2028줄"], ["three"]], "a second time"
    assert list(validation.documents()) == [["four"]]
    assert (train.name, validation.name) == (f"{name} (train)", f"{name} (validation)")


@STREAMED
@pytest.mark.parametrize(
    ("do_train", "do_eval", "expected"), [(True, False, (True, False)), (False, True, (False, True))]
)
def test_unneeded_hub_split_is_not_loaded(do_train, do_eval, expected, make_hub, streaming):
    name = make_hub(train=rows_of("one"), validation=rows_of("two"))
    found = corpora(do_train, do_eval, dataset_name=name, streaming=streaming)
    assert tuple(corpus is not None for corpus in found) == expected


def test_hub_without_validation_split_has_no_validation_corpus(make_hub):
    train, validation = corpora(dataset_name=make_hub(train=rows_of("one", "two"), test=rows_of("three")))
    assert list(train.documents()) == [["one"], ["two"]]
    assert validation is None


def test_hub_stream_without_validation_split_cannot_be_evaluated(make_hub):
    with pytest.raises(UserError, match="has no validation split to evaluate on while streaming: drop --do_eval"):
        corpora(dataset_name=make_hub(train=rows_of("one")), streaming=True)


def test_hub_without_train_split_is_an_error_that_lists_the_splits(make_hub):
    name = make_hub(validation=rows_of("one"))
    with pytest.raises(UserError, match=r"has no split named train \(splits: validation\)"):
        corpora(dataset_name=name)
    assert corpora(do_train=False, dataset_name=name)[0] is None


def test_hub_column(make_hub):
    name = make_hub(train=[{"title": "Emma", "body": "Woodhouse"}])
    train, _ = corpora(dataset_name=name, text_column="body", do_eval=False)
    assert list(train.documents()) == [["Woodhouse"]]
    train, _ = corpora(dataset_name=name, do_eval=False)
    with pytest.raises(UserError, match=rf"{name} \(train\): cannot determine which column .*\(columns: title, body\)"):
        next(read_documents(train))


def test_hub_identity_changes_with_rows_and_column(make_hub):
    """A cache of other rows or another column is not reused."""

    def identity(name, **settings):
        return corpora(dataset_name=name, do_eval=False, **settings)[0].identity

    name = make_hub(train=rows_of("one"))
    first = identity(name)
    assert identity(name) == first
    assert identity(name, text_column="text") != first
    assert identity(make_hub(train=rows_of("one", "two"))) != first


def test_tokenizer_trained_from_a_stream_knows_its_words(run_mlm_script, tmp_path):
    (tmp_path / "hub").mkdir()
    sizes = "hidden_size=8,num_hidden_layers=1,num_attention_heads=1,intermediate_size=8,max_position_embeddings=16"
    for word in ("apples", "oranges"):
        write_jsonl(tmp_path / "hub" / "train.jsonl", rows_of(f"{word} " * 20))
        code, _, error = run_mlm_script(
            *("--model_type", "bert", "--config_overrides", sizes, "--vocab_size", 100),
            *("--dataset_name", tmp_path / "hub", "--streaming"),
            *("--do_train", "--max_steps", 1, "--save_strategy", "no", "--output_dir", tmp_path / word),
        )
        assert code == 0, error
        assert f'"{word}"' in (tmp_path / word / "tokenizer.json").read_text()


def test_missing_hub_name_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"--dataset_name .*nowhere cannot be loaded"):
        corpora(dataset_name=str(tmp_path / "nowhere"))


# Folders of save_to_disk


def saved(path: Path, rows: list[dict], **splits) -> str:
    """Save a Dataset, or a DatasetDict if ``splits`` are given, and return its path."""
    train = datasets.Dataset.from_list(rows)
    others = {name: datasets.Dataset.from_list(more) for name, more in splits.items()}
    whole = datasets.DatasetDict({"train": train, **others}) if splits else train
    whole.save_to_disk(path)
    return str(path)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("flag", ["dataset_name", "train_file"])
def test_saved_data_set_is_loaded(flag, streaming, tmp_path):
    """The JSON files that describe it are not read as tables (huggingface/datasets#5044, #7503)."""
    folder = saved(tmp_path / "saved", rows_of("one", None, " two "))
    train, validation = corpora(**{flag: folder}, streaming=streaming, do_eval=False)
    assert list(train.documents()) == [["one"], ["two"]]
    assert validation is None


@pytest.mark.parametrize("names", [("dataset_name",), ("train_file", "validation_file")])
def test_saved_splits_are_the_corpora(names, tmp_path):
    folder = saved(tmp_path / "saved", rows_of("one"), validation=rows_of("two"), test=rows_of("three"))
    found = corpora(**dict.fromkeys(names, folder))
    assert [list(corpus.documents()) for corpus in found] == [[["one"]], [["two"]]]


def test_saved_splits_can_be_given_one_by_one(tmp_path):
    folder = saved(tmp_path / "saved", rows_of("one"), test=rows_of("two"))
    train, validation = corpora(train_file=f"{folder}/train", validation_file=f"{folder}/test")
    assert (list(train.documents()), list(validation.documents())) == ([["one"]], [["two"]])
    with pytest.raises(UserError, match=r"no split named validation: give .*/SPLIT, one of train, test"):
        corpora(train_file=folder, validation_file=folder)


def test_saved_format_does_not_hide_the_text(tmp_path):
    rows = datasets.Dataset.from_list(rows_of("one")).with_format("torch", columns=["id"])
    rows.save_to_disk(tmp_path / "saved")
    train, _ = corpora(train_file=str(tmp_path / "saved"))
    assert list(train.documents()) == [["one"]]


def test_saved_identity_changes_with_the_rows(tmp_path):
    def identity(folder):
        return corpora(train_file=folder, do_eval=False)[0].identity

    folder = saved(tmp_path / "saved", rows_of("one"))
    first = identity(folder)
    assert identity(folder) == first
    # A generator that runs again gives other rows with the same fingerprint.
    state = (tmp_path / "saved" / "state.json").read_text()
    saved(tmp_path / "saved", rows_of("other"))
    (tmp_path / "saved" / "state.json").write_text(state)
    assert identity(folder) != first


@pytest.mark.parametrize("streaming", [False, True])
def test_content_of_a_data_set_depends_on_its_rows_alone(streaming, tmp_path):
    """Path and fingerprint do not matter; for a stream, only the first rows do."""

    def content(name, rows, width=1):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(width):
            write_jsonl(folder / f"train-{number}.jsonl", rows[number::width])
        corpus, _ = corpora(dataset_name=str(folder), streaming=streaming, do_eval=False)
        return json.loads(json.dumps(corpus.content))

    rows = rows_of(*map(str, range(500)))
    first = content("first", rows)
    assert content("second", rows) == first
    for name, change in (("reversed", rows[::-1]), ("first row", [{"id": 7, "text": "0"}, *rows[1:]])):
        assert content(name, change) != first
    assert (content("shorter", rows[:-1]) == first) == streaming
    if streaming:
        assert content("shards", rows, 2) != first


def test_content_of_a_saved_data_set_depends_on_its_rows(tmp_path):
    def content(name, *texts):
        return corpora(train_file=saved(tmp_path / name, rows_of(*texts)), do_eval=False)[0].content

    assert content("a", "one", "two") == content("b", "one", "two") != content("c", "two", "one")


def test_saved_data_set_among_files_is_an_error(tree, tmp_path):
    """The files that describe it would be read as tables otherwise."""
    folder = saved(tree / "deep" / "saved", rows_of("one"))
    for patterns in ([folder, "a.txt"], [str(tree)]):
        with pytest.raises(UserError, match=r"--train_file: .*deep/saved was written by save_to_disk: give it alone"):
            find_files(patterns, "--train_file")


def test_damaged_saved_data_set_is_an_error(tmp_path):
    folder = saved(tmp_path / "saved", rows_of("one"))
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    for damage in (lambda: arrow.write_bytes(b"no arrow"), arrow.unlink):
        damage()
        with pytest.raises(UserError, match=r"--train_file .*saved cannot be loaded: save it again"):
            corpora(train_file=folder)


def test_damaged_saved_text_is_an_error(tmp_path):
    """The library decodes a text only when it is read."""
    folder = saved(tmp_path / "saved", rows_of("one", "M\u00fcller"))
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes().replace("\u00fc".encode(), b"\xff\xff"))
    train, _ = corpora(train_file=folder, do_eval=False)
    with pytest.raises(UserError, match=r"saved cannot be read after row \d: .*0xff.*: download it or save it again"):
        list(train.documents())


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "semicolon.csv", "a.jsonl", "rows", "stream"])
def test_columns_are_logged_with_the_text_column_and_its_first_value(name, tmp_path, caplog):
    """Users see a wrong delimiter, or a row taken as header, before training."""
    caplog.set_level("INFO")
    rows = datasets.Dataset.from_dict({"title": ["Emma", "Ulysses"], "body": ["Call me Ishmael", "Stately"]})
    if name in ("rows", "stream"):
        corpus = HubCorpus(name, rows.to_iterable_dataset() if name == "stream" else rows, "body")
        where = name
    else:
        delimiter = {"a.tsv": "\t", "semicolon.csv": ";"}.get(name, ",")
        rows.to_json(tmp_path / name) if "json" in name else rows.to_csv(tmp_path / name, sep=delimiter)
        corpus = FileCorpus((SAMPLE / "music.txt", tmp_path / name), "body")
        where = f"{tmp_path / name}" + (f", separated by {delimiter!r}" if delimiter != "," else "")
    log_columns(corpus, [])
    assert caplog.messages == [f"Columns of {where}: title, body; reading body, first value 'Call me Ishmael'"]
    caplog.clear()
    log_columns(FileCorpus((SAMPLE / "music.txt",)), [])
    assert not caplog.messages


def test_missing_text_is_not_logged_as_the_word_none(tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "a.jsonl").write_text('{"text": null}\n')
    log_columns(FileCorpus((tmp_path / "a.jsonl",)), [])
    assert caplog.messages[0].endswith("reading text, first value ''")
