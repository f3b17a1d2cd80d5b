"""Check which checkpoints count, which are deleted, and that nothing in output_dir is lost."""

import builtins
import errno
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from cloze.config.arguments import TrainingArguments
from cloze.errors import UserError
from cloze.training.checkpoints import (
    MODEL_FILES,
    complete,
    list_checkpoints,
    prune,
    put_in_place,
    remove,
    remove_all,
    staging_folder,
)
from cloze.training.output_dir import check_disk
from cloze.training.output_dir import prepare_output_dir as prepare


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def make(out, *steps, complete=True):
    """Return a folder with checkpoints and a file of the user."""
    for step in steps:
        path = out / f"checkpoint-{step}"
        path.mkdir(parents=True)
        (path / "model.safetensors").write_text("weights")
        (path / "recipe.yaml").write_text("learning_rate: 0.001\n")
        (path / "progress.json").write_text("{}")
        if complete:
            write_sums(path)
    out.mkdir(exist_ok=True)
    (out / "notes.txt").write_text("mine")


def write_sums(path):
    sums = [f"{sha256(file.read_bytes()).hexdigest()}  {file.name}" for file in path.iterdir()]
    (path / "SHA256SUMS").write_text("\n".join(sums))


def names(out):
    return sorted(path.name for path in out.iterdir())


def steps_in(out):
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in out.glob("checkpoint-*"))


def prepare_output_dir(training_args, keep, recipe="learning_rate: 0.001"):
    return prepare(training_args, keep, recipe)


def arguments(out, **settings):
    return TrainingArguments(output_dir=str(out), use_cpu=True, **{"do_train": True, **settings})


# Finding


def test_checkpoints_are_listed_by_step(out):
    make(out, 1000, 90, 500)
    assert list(list_checkpoints(str(out)).items()) == [(step, out / f"checkpoint-{step}") for step in (90, 500, 1000)]


def test_incomplete_checkpoints_and_other_names_are_ignored(out):
    """transformers#35782: checksums are written last; a checkpoint without them was interrupted."""
    make(out, 10)
    make(out, 20, complete=False)
    for name in ("checkpoint-30-old", "checkpoint-", "checkpoint-best", "checkpoint-40.tmp", "my-checkpoint-50"):
        (out / name).mkdir()
        (out / name / "SHA256SUMS").touch()
    (out / "checkpoint-60").touch()
    (out / "checkpoint-70" / "SHA256SUMS").mkdir(parents=True)
    assert list(list_checkpoints(str(out))) == [10]


def test_no_folder_holds_no_checkpoint(out):
    assert list_checkpoints(str(out)) == {}


# Links


@pytest.fixture
def scratch(out, tmp_path):
    """Make checkpoints 10, 20 and 30, where 20 links to another disk; return the folder there."""
    make(out, 10, 20, 30)
    scratch = tmp_path / "scratch" / "moved"
    scratch.parent.mkdir()
    (out / "checkpoint-20").rename(scratch)
    (out / "checkpoint-20").symlink_to(scratch)
    return scratch


def test_symlinked_checkpoint_is_resumed(out, scratch):
    (out / "checkpoint-30" / "model.safetensors").write_text("damaged")
    assert prepare_output_dir(arguments(out), keep=None) == out / "checkpoint-20"
    asked = str(out / "checkpoint-20")
    assert prepare_output_dir(arguments(out, resume_from_checkpoint=asked), keep=None) == out / "checkpoint-20"


@pytest.mark.parametrize("delete", [lambda out: prune(str(out), 1, 30, None), lambda out: remove_all(str(out))])
def test_deleting_a_symlink_keeps_its_target(delete, out, scratch):
    before = {path.name: path.read_bytes() for path in scratch.iterdir()}
    delete(out)
    assert 20 not in steps_in(out)
    assert not os.path.lexists(out / "checkpoint-20")
    assert "checkpoint-incomplete" not in names(out)
    assert {path.name: path.read_bytes() for path in scratch.iterdir()} == before


def test_broken_symlinks_are_replaced(out):
    make(out, 10, 20)
    for name in ("checkpoint-30", "checkpoint-incomplete"):
        (out / name).symlink_to(out.parent / "nowhere")
    assert list(list_checkpoints(str(out))) == [10, 20]
    assert prepare_output_dir(arguments(out), keep=None) == out / "checkpoint-20"
    assert not os.path.lexists(out / "checkpoint-incomplete")
    folder = staging_folder(str(out), "checkpoint-30")
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("learning_rate: 0.001\n")
    complete(folder)
    assert list(list_checkpoints(str(out))) == [10, 20, 30]
    assert not (out / "checkpoint-30").is_symlink()


def test_symlinked_staging_folder_keeps_its_target(out, tmp_path):
    make(out, 10)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (out / "checkpoint-incomplete").symlink_to(tmp_path / "mine")
    prepare_output_dir(arguments(out), keep=None)
    assert not os.path.lexists(out / "checkpoint-incomplete")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"


def test_symlinked_output_dir_is_followed(out, tmp_path):
    make(out, 10, 20)
    link = tmp_path / "link"
    link.symlink_to(out)
    assert prepare_output_dir(arguments(link), keep=None) == link / "checkpoint-20"
    prune(str(link), 1, 20, None)
    assert steps_in(out) == [20]
    assert link.is_symlink()


def test_symlinked_checkpoints_do_not_count_as_freed_disk(out, scratch):
    (scratch / "optimizer.pt").write_bytes(bytes(2_000_000))
    settings = arguments(out, overwrite_output_dir=True)
    _, free = check_disk(settings, 1, 100)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
        _, free = check_disk(settings, 1, 100)
    assert 10_000 < free < 20_000


# Checkpoints of another user


@pytest.mark.parametrize("denied", ["recipe.yaml", "SHA256SUMS"])
def test_unreadable_checkpoint_of_another_user_is_not_damaged(denied, out, monkeypatch):
    make(out, 10, 20)
    path = out / "checkpoint-20" / denied
    original = builtins.open

    def refuse(file, *args, **kwargs):
        if file == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return original(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", refuse)
    for asked in (None, str(out / "checkpoint-20")):
        with pytest.raises(UserError, match=rf"^{path} cannot be read \(Permission denied\): ask its owner for read"):
            prepare_output_dir(arguments(out, resume_from_checkpoint=asked), keep=None)
    assert steps_in(out) == [10, 20]


def as_nobody(action):
    """Call a function in a forked process without root's rights; return the text of its error."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            if os.geteuid() == 0:
                os.seteuid(65534)
            action()
            message = "no error"
        except UserError as error:
            message = str(error)
        except BaseException as error:
            message = repr(error)
        os.write(writer, message.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with open(reader) as file:
        return file.read()


def test_folders_of_another_user_are_errors():
    # Not tmp_path, which no other user may read.
    out = Path(tempfile.mkdtemp()) / "out"
    out.parent.chmod(0o755)
    make(out, 10, 20)
    (out / "checkpoint-10").chmod(0o555)
    (out / "checkpoint-20").chmod(0)
    out.chmod(0o555)
    try:
        assert as_nobody(lambda: prepare_output_dir(arguments(out), None)) == (
            f"--output_dir {out} cannot be written to (Permission denied): give a folder of your own"
        )
        out.chmod(0o777)
        assert as_nobody(lambda: prepare_output_dir(arguments(out), None)).startswith(
            f"{out / 'checkpoint-20' / 'SHA256SUMS'} cannot be read (Permission denied): ask its owner for"
        )
        assert as_nobody(lambda: remove(out / "checkpoint-10")).startswith(
            f"{out / 'checkpoint-10'} cannot be deleted (Permission denied): delete it, or ask its owner"
        )
        assert steps_in(out) == [10, 20]
    finally:
        (out / "checkpoint-20").chmod(0o777)
        shutil.rmtree(out.parent)


# The output folder


def test_new_output_dir_is_created(out):
    assert prepare_output_dir(arguments(out / "deep" / "er"), keep=None) is None
    assert names(out / "deep" / "er") == []


def test_newest_complete_checkpoint_is_resumed(out):
    """transformers#35782 and #26961: newest by step, not by modification time."""
    make(out, 900, 1000)
    make(out, 1100, complete=False)
    os.utime(out / "checkpoint-1000", (1, 1))
    before = names(out)
    for resume in (None, "True", "true"):
        found = prepare_output_dir(arguments(out, resume_from_checkpoint=resume), keep=None)
        assert found == out / "checkpoint-1000"
    assert names(out) == before


def test_requested_checkpoint_is_resumed(out):
    make(out, 10, 20)
    asked = str(out / "checkpoint-10")
    assert prepare_output_dir(arguments(out, resume_from_checkpoint=asked), keep=None) == out / "checkpoint-10"
    assert steps_in(out) == [10, 20]


@pytest.mark.parametrize("resume", ["checkpoint-10", "elsewhere", "True"])
def test_invalid_checkpoint_path_is_an_error(resume, out):
    make(out, 10, complete=False)
    resume = resume if resume == "True" else str(out / resume)
    with pytest.raises(
        UserError, match=r"--resume_from_checkpoint.* (is corrupt or not a checkpoint|contains no checkpoint)"
    ):
        prepare_output_dir(arguments(out, resume_from_checkpoint=resume), keep=None)


def test_overwrite_output_dir_removes_checkpoints_only(out):
    """They are removed only when the new run is ready: an earlier error must not delete the old run."""
    make(out, 10, 20)
    (out / "model.safetensors").touch()
    assert prepare_output_dir(arguments(out, overwrite_output_dir=True), keep=None) is None
    assert steps_in(out) == [10, 20]
    remove_all(str(out))
    assert names(out) == ["model.safetensors", "notes.txt"]


def test_processes_inspect_output_dir_at_the_same_time(out):
    """No process mistakes the probe file of another process for a disk error."""
    make(out, 10)
    settings = arguments(out)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: prepare_output_dir(settings, keep=None), range(400)))
    assert found == [out / "checkpoint-10"] * 400
    assert names(out) == ["checkpoint-10", "notes.txt"]


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"])
def test_finished_model_is_not_overwritten(file, out):
    make(out)
    (out / file).write_text("weights")
    with pytest.raises(UserError, match=r"already contains a model.*--overwrite_output_dir"):
        prepare_output_dir(arguments(out), keep=None)
    assert (out / file).read_text() == "weights"
    assert prepare_output_dir(arguments(out, do_train=False, do_eval=True), keep=None) is None
    assert prepare_output_dir(arguments(out, overwrite_output_dir=True), keep=None) is None


def model_in(out):
    """Return what a reader finds: the text by file, None without a model."""
    texts = {path.name: path.read_text() for path in out.iterdir() if path.is_file()}
    return texts if set(MODEL_FILES) & set(texts) else None


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json")


@pytest.mark.fsync
@pytest.mark.parametrize("weights", [("model.safetensors",), SHARDS])
@pytest.mark.parametrize("weights_before", [("model.safetensors",), ("pytorch_model.bin",), SHARDS])
def test_model_replaced_when_killed_is_old_none_or_new(weights_before, weights, out, monkeypatch):
    def write(folder, text, names):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "tokenizer.json", *names):
            (folder / name).write_text(text)

    def dying(original):
        def call(*args, **kwargs):
            if not left:
                raise KeyboardInterrupt
            left.pop()
            return original(*args, **kwargs)

        return call

    for owner, name in ((os, "replace"), (os, "fsync"), (type(out), "unlink")):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))
    left, found = [], []
    for calls in range(50):
        left[:] = range(calls)
        shutil.rmtree(out, ignore_errors=True)
        write(out, "before", weights_before)
        before, folder = model_in(out), staging_folder(str(out), "model")
        write(folder, "new", weights)
        new = model_in(folder)
        try:
            put_in_place(folder)
        except KeyboardInterrupt:
            found.append(model_in(out))
            assert found[-1] in (before, None)
        else:
            break
    assert model_in(out) == new
    assert names(out) == sorted(new)
    assert (before in found, None in found) == (True, True)


def test_other_files_in_output_dir_are_ignored(out):
    make(out)
    (out / "config.json").write_text("{}")  # without weights, as left by a killed process
    assert prepare_output_dir(arguments(out), keep=None) is None
    assert names(out) == ["config.json", "notes.txt"]


@pytest.mark.parametrize(
    ("kept", "overwrite"), [(".", False), (".", True), ("checkpoint-10/..", False), ("checkpoint-10", True)]
)
def test_initial_model_is_not_overwritten(kept, overwrite, out):
    """It is not deleted either, even if it is one of the checkpoints that --overwrite_output_dir removes."""
    make(out, 10, 20)
    with pytest.raises(UserError, match="the model to start from"):
        prepare_output_dir(arguments(out, overwrite_output_dir=overwrite), keep=str(out / kept))
    assert steps_in(out) == [10, 20]


def test_resumed_checkpoint_is_not_deleted(out):
    """--overwrite_output_dir and --resume_from_checkpoint exclude each other."""
    make(out, 10, 20)
    settings = arguments(out, overwrite_output_dir=True, resume_from_checkpoint=str(out / "checkpoint-10"))
    with pytest.raises(UserError, match="--resume_from_checkpoint"):
        prepare_output_dir(settings, keep=None)
    assert steps_in(out) == [10, 20]


def test_evaluation_deletes_nothing(out):
    make(out, 10)
    settings = arguments(out, do_train=False, do_eval=True, overwrite_output_dir=True)
    assert prepare_output_dir(settings, keep=str(out)) is None
    assert steps_in(out) == [10]


def test_unwritable_output_dir_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output_dir .*file/out cannot be written to"):
        prepare_output_dir(arguments(tmp_path / "file" / "out"), keep=None)


# Pruning


@pytest.mark.parametrize(
    ("keep", "newest", "best", "left"),
    [
        (None, 1000, None, [80, 90, 100, 1000]),
        (1, 1000, None, [1000]),
        (2, 1000, None, [100, 1000]),
        (3, 1000, None, [90, 100, 1000]),
        (9, 1000, None, [80, 90, 100, 1000]),
        (1, 1000, 80, [80, 1000]),
        (2, 1000, 80, [80, 1000]),
        (3, 1000, 80, [80, 100, 1000]),
        (1, 1000, 1000, [1000]),
        (2, 1000, 1000, [100, 1000]),
        # The best checkpoint is absent, as after an earlier run.
        (2, 1000, 70, [100, 1000]),
        # The others are of an earlier, longer run.
        (1, 90, None, [90, 100, 1000]),
        (1, 90, 80, [80, 90, 100, 1000]),
        (2, 100, 80, [80, 100, 1000]),
    ],
)
def test_prune_keeps_the_newest_and_the_best(keep, newest, best, left, out):
    """transformers#26961: by step, not by modification time; never the newest, the best, or those of an earlier run."""
    make(out, 80, 90, 100, 1000)
    make(out, 85, complete=False)
    for time, step in enumerate((1000, 100, 90, 80)):
        os.utime(out / f"checkpoint-{step}", (time, time))
    prune(str(out), keep, newest, best)
    assert steps_in(out) == sorted([*left, 85])
    assert (out / "notes.txt").exists()


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("best", [None, 5, 20])
def test_training_prunes_checkpoints(keep, best, out):
    """After each save, the newest and the best exist, and at most the limit, or these two."""
    for step in range(5, 50, 5):
        make(out, step)
        so_far = best if best is not None and best <= step else None
        prune(str(out), keep, step, so_far)
        left = steps_in(out)
        protected = {step} if so_far is None else {step, so_far}
        assert protected <= set(left)
        assert len(left) == min(step // 5, max(keep, len(protected)))


# The disk


WEIGHTS = 4000  # bytes of 1,000 parameters


@pytest.mark.parametrize(
    ("settings", "keep", "least", "enough"),
    [
        ({}, 2, 4 * WEIGHTS, 10 * WEIGHTS),
        ({}, 1, 4 * WEIGHTS, 7 * WEIGHTS),
        ({"save_only_model": True}, 2, 2 * WEIGHTS, 4 * WEIGHTS),
        ({"save_strategy": "no"}, 2, WEIGHTS, WEIGHTS),
    ],
)
def test_check_disk_warns_or_refuses_by_free_space(settings, keep, least, enough, out, caplog, monkeypatch):
    """A checkpoint is three times the weights, and the next one is written before the oldest is deleted."""
    training_args, disk = arguments(out, **settings), SimpleNamespace(free=least - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk)
    with pytest.raises(UserError, match=f"--output_dir {out}: .* of disk space are free"):
        check_disk(training_args, keep, 1000)
    for disk.free in (least, max(least, enough - 1), enough):
        caplog.clear()
        check_disk(training_args, keep, 1000)
        assert ("low disk space: " in caplog.text) == (disk.free < enough)


def test_check_disk_asks_the_system_by_default(out):
    out.mkdir()
    check_disk(arguments(out), 2, 1000)
    with pytest.raises(UserError, match=r"a checkpoint and the model take about 16000000\.00 GB"):
        check_disk(arguments(out), 2, 10**15)


def test_pruned_checkpoints_count_as_free_disk(out, monkeypatch):
    """Two checkpoints of 8 KB, and 11 KB of free disk space."""
    make(out, 10, 20)
    for step in (10, 20):
        checkpoint = out / f"checkpoint-{step}"
        others = sum(path.stat().st_size for path in checkpoint.iterdir()) - len("weights")
        (checkpoint / "model.safetensors").write_bytes(bytes(8000 - others))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=11_000))
    check_disk(arguments(out, overwrite_output_dir=True), 2, 1000)
    with pytest.raises(UserError, match="of disk space are free"):
        check_disk(arguments(out), 2, 1000)
    # 16 bytes per parameter, of 27,000 bytes.
    check_disk(arguments(out, overwrite_output_dir=True), 2, 27_000 // 16)
    with pytest.raises(UserError, match="of disk space are free"):
        check_disk(arguments(out, overwrite_output_dir=True), 2, 27_000 // 16 + 1)
