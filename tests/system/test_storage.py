"""Test cache entries: verified when read, written again if damaged, shared between users."""

import os
import resource
import shutil
import signal
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloze.errors import UserError
from cloze.system.storage import find_damage, find_or_write
from cloze.text.corpus import FileCorpus
from cloze.tokenization.new_tokenizer import train_tokenizer
from cloze.tokenization.token_cache import prepare

TEXT = "The Moon pulls. Water heaps up!\nTwice a day.\n\nSalt stays behind.\n\n" * 9


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "corpus.txt").write_text(TEXT)
    return FileCorpus((tmp_path / "corpus.txt",))


@pytest.fixture
def cache(tmp_path):
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def entries(cache):
    return sorted(path for path in cache.iterdir() if path.suffix != ".lock")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def zero(path):
    content = path.read_bytes()
    path.write_bytes(bytes(64) + content[64:])


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


DAMAGES = [flip, zero, cut, empty, Path.unlink]


def prepare_words(corpus, tokenizer, cache, **settings):
    result = prepare(corpus, tokenizer, cache, granularity="line", with_words=True, **settings)
    return [array.tolist() for array in (result.tokens, result.units, result.documents, result.word_starts)]


def write_folder(folder):
    (folder / "file").write_text("content")


def read_folder(folder):
    return (folder / "file").read_text()


def find(path, write=write_folder, read=read_folder, size=0, overwrite=False):
    return find_or_write(path, write, read, name="entry", size=size, overwrite=overwrite)


# Damaged entries


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["tokens", "units", "documents", "word_starts", "info.json", "XXH128SUMS"])
def test_damaged_corpus_is_prepared_again(file, damage, corpus, tokenizers, cache, caplog):
    first = prepare_words(corpus, tokenizers["wordpiece"], cache)
    (entry,) = entries(cache)
    damage(entry / file)
    for _ in range(2):
        assert prepare_words(corpus, tokenizers["wordpiece"], cache) == first
    (line,) = [record.message for record in caplog.records if record.message.startswith("corrupt cache entry ")]
    assert line.startswith(f"corrupt cache entry {entry}: ")
    assert line.endswith(": preparing it again")
    if "SUMS" not in file:
        assert file in line
    assert entries(cache) == [entry]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_damaged_tokenizer_is_trained_again(file, damage, corpus, cache, caplog):
    vocabulary = train_tokenizer([corpus], "bert", 60, True, cache, overwrite=False).get_vocab()
    (entry,) = entries(cache)
    damage(entry / file)
    for _ in range(2):
        assert train_tokenizer([corpus], "bert", 60, True, cache, overwrite=False).get_vocab() == vocabulary
    assert caplog.text.count(f"corrupt cache entry {entry}: ") == caplog.text.count(file) == 1


@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_damaged_symlinked_entry_replaces_the_link_only(damage, cache, tmp_path):
    entry, elsewhere = cache / "entry", tmp_path / "elsewhere"
    find(entry)
    entry.rename(elsewhere)
    entry.symlink_to(elsewhere)
    assert find(entry, write=None) == "content"
    damage(elsewhere / "file")
    assert find(entry) == "content"
    assert not entry.is_symlink()
    assert (elsewhere / "XXH128SUMS").is_file()
    shutil.rmtree(entry)
    entry.symlink_to(tmp_path / "nowhere")
    assert find(entry) == "content"
    assert entries(cache) == [entry]


def test_damage_is_reported_in_one_line(corpus, checkpoint, cache, tmp_path, run_mlm_script):
    """Check exit code 0 and the same examples as before."""
    argv = ("--model_name_or_path", checkpoint("bert"), "--train_file", *corpus.files, "--do_train", "--prepare_only")
    argv += ("--output_dir", tmp_path / "out", "--cache_dir", cache)
    lines = [run_mlm_script(*argv)[1].splitlines()]
    (entry,) = entries(cache / "cloze")
    zero(entry / "tokens")
    for _ in range(2):
        code, printed, _ = run_mlm_script(*argv)
        assert code == 0
        lines.append(printed.splitlines())
    assert [line for line in lines[1] if line not in lines[0]] == [
        f"warning: corrupt cache entry {entry}: checksum mismatch in tokens: preparing it again"
    ]
    assert [line for line in lines[2] if line not in lines[1]] == [f"Reusing the prepared corpus in {entry}"]


def test_damage_found_by_several_is_repaired_once(cache, caplog):
    find(cache / "entry")
    flip(cache / "entry" / "file")
    written, together = [], threading.Barrier(4)

    def work(_):
        together.wait()
        return find(cache / "entry", lambda folder: written.append(write_folder(folder)))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == ["content"] * 4
    assert len(written) == caplog.text.count("corrupt cache entry ") == 1


# Interrupted writes


@pytest.mark.fsync
def test_entry_is_synced_before_and_after_its_rename(cache, monkeypatch):
    """Its parent folder is synced after the rename."""
    calls = []
    replace, fsync = os.replace, os.fsync

    def synced(descriptor):
        calls.append(os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), cache))
        fsync(descriptor)

    def replaced(old, new):
        calls.append("renamed")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    find(
        cache / "entry",
        lambda folder: ((folder / "below").mkdir(), write_folder(folder), write_folder(folder / "below")),
    )
    *before, sums, first, second, renamed, last = calls
    assert sorted(before) == ["entry.partial/below/file", "entry.partial/file"]
    assert sums == "entry.partial/XXH128SUMS"
    assert {first, second} == {"entry.partial", "entry.partial/below"}
    assert (renamed, last) == ("renamed", ".")


@pytest.mark.parametrize("moment", ["write", "replace entry", "replace entry.partial"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_entry_of_a_killed_process_is_repaired_by_the_next(moment, overwrite, cache):
    """A process killed before the old entry is moved leaves it readable; one killed later leaves none."""
    find(cache / "entry")
    if not overwrite:
        cut(cache / "entry" / "file")
    replace = os.replace

    def write_or_die(folder):
        write_folder(folder)
        if moment == "write":
            os.kill(os.getpid(), signal.SIGKILL)

    def replace_or_die(old, new):
        if moment == f"replace {Path(old).name}":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(old, new)

    child = os.fork()
    if child == 0:
        os.replace = replace_or_die
        find(cache / "entry", write_or_die, overwrite=overwrite)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (find_damage(cache / "entry") is None) == (overwrite and moment != "replace entry.partial")
    assert find(cache / "entry") == "content"
    assert find(cache / "entry", overwrite=True) == "content"
    assert entries(cache) == [cache / "entry"]


def test_entry_replaced_meanwhile_is_read_again(cache):
    find(cache / "entry")

    replaced = []

    def read(folder):
        if not replaced:
            replaced.append(shutil.rmtree(folder))
        return read_folder(folder)

    assert find(cache / "entry", read=read) == "content"


# Other users' caches


@pytest.fixture
def shared():
    """Return a folder that all users may read, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def as_other_user(shared):
    """Return ``as_other_user(function, ...)``, which calls it without write access to the shared folder."""

    def call(function, *args, **kwargs):
        folders = [shared, *(path for path in shared.rglob("*") if path.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        user, group = os.geteuid(), os.getegid()
        if user == 0:
            os.setegid(65534)
            os.seteuid(65534)
        try:
            return function(*args, **kwargs)
        finally:
            os.seteuid(user)
            os.setegid(group)
            for folder in folders:
                folder.chmod(0o755)

    return call


def test_complete_entry_is_read_by_another_user(shared, as_other_user, tokenizers):
    """Read the entry with and without a leftover lock file."""
    (shared / "corpus.txt").write_text(TEXT)
    corpus, tokenizer = FileCorpus((shared / "corpus.txt",)), tokenizers["wordpiece"]
    first = prepare_words(corpus, tokenizer, shared)
    vocabulary = train_tokenizer([corpus], "bert", 60, True, shared, overwrite=False).get_vocab()
    for _ in range(2):
        assert as_other_user(prepare_words, corpus, tokenizer, shared) == first
        assert as_other_user(train_tokenizer, [corpus], "bert", 60, True, shared, False).get_vocab() == vocabulary
        for lock in shared.glob("*.lock"):
            lock.unlink()


@pytest.mark.parametrize("locked", [True, False])
def test_unwritable_entry_is_an_error(locked, shared, as_other_user):
    find(shared / "entry")
    if not locked:
        (shared / "entry.lock").unlink()
    cure = "give a --cache_dir of your own, or let the owner of this one run it with --prepare_only"
    for name, overwrite, beginning in (
        ("other", False, "other cannot"),
        ("entry", True, "entry cannot"),
        ("entry", False, "entry: checksum mismatch in file, and it cannot"),
    ):
        if beginning.startswith("entry: "):
            flip(shared / "entry" / "file")
        with pytest.raises(UserError) as raised:
            as_other_user(find, shared / name, overwrite=overwrite)
        assert str(raised.value) == f"{shared}/{beginning} be written (Permission denied): {cure}"
    assert find(shared / "entry") == "content"


def test_script_uses_a_shared_read_only_cache(shared, as_other_user, tmp_path, run_mlm_script):
    (shared / "corpus.txt").write_text(TEXT)
    argv = ["--model_type", "bert", "--vocab_size", 100, "--train_file", shared / "corpus.txt", "--do_train"]
    argv += ["--prepare_only", "--output_dir", tmp_path, "--cache_dir", shared]
    assert run_mlm_script(*argv)[0] == 0
    code, printed, _ = as_other_user(run_mlm_script, *argv)
    assert code == 0
    assert "Reusing the trained tokenizer in" in printed
    assert "Reusing the prepared corpus in" in printed
    code, _, errors = as_other_user(run_mlm_script, *argv, "--line_by_line")
    assert code == 2
    assert "cannot be written (Permission denied): give a --cache_dir of your own" in errors
    assert "Traceback" not in errors


# Full disks


@pytest.fixture
def full_disk():
    """Return ``full_disk(size)``, which limits files to ``size`` bytes until the end of the test."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


FULL = r"cannot be written \(.*\): {}[\d.]+ [GM]B are free: free disk space, or give another --cache_dir"


def test_corpus_on_a_full_disk_is_one_line(corpus, tokenizers, cache, full_disk):
    """The partial entry is deleted, and the next start writes it."""
    corpus.files[0].write_text("The Moon pulls.\n" * 6_000)
    full_disk(20_000)
    # The estimate for 96,000 bytes: one token per four bytes, with two bytes per token and one for word starts.
    with pytest.raises(UserError, match=FULL.format(r"about 0\.1 MB are needed, ")):
        prepare_words(corpus, tokenizers["wordpiece"], cache)
    assert entries(cache) == []
    full_disk(resource.RLIM_INFINITY)
    assert len(prepare_words(corpus, tokenizers["wordpiece"], cache)[0]) > 20_000


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_tokenizer_on_a_full_disk_is_one_line(kind, corpus, cache, full_disk):
    full_disk(1_000)
    with pytest.raises(UserError, match=FULL.format(r"about 0\.1 MB are needed, ")):
        train_tokenizer([corpus], kind, 600, False, cache, overwrite=False)
    assert entries(cache) == []
    full_disk(resource.RLIM_INFINITY)
    train_tokenizer([corpus], kind, 600, False, cache, overwrite=False)


def test_checksums_on_a_full_disk_are_one_line(cache, full_disk):
    """The message has no estimate if the size is unknown."""
    full_disk(20)
    with pytest.raises(UserError, match=r"entry.partial " + FULL.format("")):
        find(cache / "entry")
    assert entries(cache) == []


def test_full_disk_keeps_the_entry_to_overwrite(cache, full_disk):
    find(cache / "entry")
    full_disk(20)
    with pytest.raises(UserError, match="cannot be written"):
        find(cache / "entry", overwrite=True)
    assert entries(cache) == [cache / "entry"]
    assert find(cache / "entry") == "content"


def test_data_set_on_a_full_disk_is_one_line(cache, tmp_path, full_disk, run_mlm_script):
    """The datasets library writes it to the cache."""
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.csv").write_text("text\n" + "The Moon pulls.\n" * 2_000)
    full_disk(20_000)
    argv = ("--model_type", "bert", "--dataset_name", tmp_path / "rows", "--do_train", "--prepare_only")
    code, _, errors = run_mlm_script(*argv, "--output_dir", tmp_path / "out", "--cache_dir", cache)
    assert code == 2
    assert errors.splitlines()[-1] == (
        f"error: --dataset_name {tmp_path / 'rows'} cannot be loaded: free disk space, or give a writable --cache_dir "
        "([Errno 27] File too large)"
    )
