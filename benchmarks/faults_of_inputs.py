"""Provoke faults of local inputs: caches, texts, folders, checkpoints."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

from fault_runs import (
    Case,
    Outcome,
    fault,
    line_with,
    one_line,
    require,
    require_code,
    same_result,
    small_disk,
    without_privileges,
)

# Damaged caches


def damage_cache(case: Case, name: str, change) -> Outcome:
    """Change a file of the cache; the run must report this and prepare the entry again."""
    (path,) = case.copy_cache().rglob(name)
    change(path)
    run = case.train()
    outcome = same_result(run, case.undisturbed(), case.folder / "out")
    entry = re.escape(path.parent.name)
    return Outcome(outcome.run, line_with(run, f"^(?!Prepared |Reusing ).*{entry}"))


def overwrite(path: Path, place: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(content)


def flip_bit(path: Path) -> None:
    data = path.read_bytes()
    place = len(data) // 2
    overwrite(path, place, bytes([data[place] ^ 1]))


def flip_letter(path: Path) -> None:
    """Flip a bit of a letter in a token, which keeps the file readable."""
    token = max(re.findall(rb'"([a-z]{6,})": ?\d', path.read_bytes()), key=len)
    place = path.read_bytes().index(b'"' + token) + 2
    overwrite(path, place, bytes([token[1] ^ 1]))


@fault("cache", "a flipped bit in a prepared corpus's tokens")
def flipped_bit(case: Case) -> Outcome:
    return damage_cache(case, "tokens", flip_bit)


@fault("cache", "64 zero bytes in a prepared corpus's units")
def zero_bytes(case: Case) -> Outcome:
    return damage_cache(case, "units", lambda path: overwrite(path, path.stat().st_size // 2, bytes(64)))


@fault("cache", "a truncated file of a prepared corpus")
def cut_file(case: Case) -> Outcome:
    return damage_cache(case, "tokens", lambda path: os.truncate(path, path.stat().st_size // 2))


@fault("cache", "a missing file of a prepared corpus")
def missing_file(case: Case) -> Outcome:
    return damage_cache(case, "documents", Path.unlink)


@fault("cache", "an empty info.json of a prepared corpus")
def empty_info(case: Case) -> Outcome:
    return damage_cache(case, "info.json", lambda path: os.truncate(path, 0))


@fault("cache", "a flipped bit in a cached tokenizer.json")
def flipped_bit_in_tokenizer(case: Case) -> Outcome:
    return damage_cache(case, "tokenizer.json", flip_letter)


@fault("cache", "a truncated tokenizer.json in the cache")
def cut_tokenizer(case: Case) -> Outcome:
    return damage_cache(case, "tokenizer.json", lambda path: os.truncate(path, path.stat().st_size // 2))


def forbid_writing(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o500 if path.is_dir() else 0o400)


@fault("cache", "a complete read-only cache")
def read_only_cache(case: Case) -> Outcome:
    forbid_writing(case.copy_cache())
    return same_result(case.start(without_privileges(case.command())), case.undisturbed(), case.folder / "out")


@fault("cache", "a complete read-only cache without lock files")
def read_only_cache_without_locks(case: Case) -> Outcome:
    cache = case.copy_cache()
    for path in cache.rglob("*.lock"):
        path.unlink()
    forbid_writing(cache)
    return same_result(case.start(without_privileges(case.command())), case.undisturbed(), case.folder / "out")


@fault("cache", "a read-only cache without the corpus")
def read_only_cache_without_corpus(case: Case) -> Outcome:
    cache = case.copy_cache()
    for path in cache.rglob("corpus-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    forbid_writing(cache)
    return one_line(case.start(without_privileges(case.command())), str(cache))


def fill_cache(case: Case, kilobytes: int, finished: str) -> Outcome:
    """Run with a small disk for the cache; only lock files and entries that match ``finished`` may be left."""
    cache = case.folder / "cache"
    run = case.start(small_disk(cache, kilobytes, case.command()))
    outcome = one_line(run, str(cache), "free")
    left = [line for line in run.lines if line.startswith("LEFT") and not re.search(finished, line)]
    require(not left, run, f"left on the disk: {', '.join(left)}")
    return outcome


@fault("disk", "a full disk while the tokenizer is cached")
def full_disk_at_tokenizer(case: Case) -> Outcome:
    return fill_cache(case, 16, r"\.lock$")


@fault("disk", "a full disk while the corpus is cached")
def full_disk_at_corpus(case: Case) -> Outcome:
    return fill_cache(case, 64, r"\.lock$|/tokenizer-\w+/")


# Texts and folders


def measure_parquet(case: Case, *flags) -> Outcome:
    """Read rows of 100 kB; a parquet file may take 100 MB more memory than the same rows as JSON lines."""
    import pyarrow
    import pyarrow.parquet

    words = " ".join((case.write_text(times=2).read_text()).split())[:100_000]
    rows = [words[start:] + words[:start] for start in range(0, 800 * 50, 50)]
    # Rows per page. A page is read whole, and by default it would contain all of these rows.
    pyarrow.parquet.write_table(pyarrow.table({"text": rows}), case.folder / "rows.parquet", write_batch_size=10)
    case.write("rows.jsonl", "".join(json.dumps({"text": row}) + "\n" for row in rows))
    peaks = {}
    for kind in ("jsonl", "parquet"):
        own = ["--train_file", case.folder / f"rows.{kind}", "--tokenizer_name", case.undisturbed(), *flags]
        run = case.train(*own, out=kind).end()
        require_code(run, 0)
        peaks[kind] = run.peak
    line = f"{peaks['parquet']:,.0f} MB; JSON lines: {peaks['jsonl']:,.0f} MB"
    require(peaks["parquet"] < peaks["jsonl"] + 100, run, line)
    return Outcome(run, line)


@fault("memory", "a parquet file with rows of 100 kB")
def long_rows(case: Case) -> Outcome:
    return measure_parquet(case, "--prepare_only")


@fault("memory", "a streamed parquet file with rows of 100 kB")
def long_rows_streamed(case: Case) -> Outcome:
    return measure_parquet(case, "--streaming", "--do_eval", "false", "--max_steps", "2")


def change_text(case: Case, change, *flags) -> Outcome:
    """Change the text between a stop and the resume."""
    text = case.write_text()
    # Without held-out documents, which would change, the number of examples and tokens stays the same.
    flags = ["--train_file", text, "--do_eval", "false", *flags]
    require_code(case.train(*flags).wait_for_step().send(signal.SIGTERM).end(), 75)
    size = text.stat().st_size
    text.write_text(change(text.read_text()))
    outcome = one_line(case.train(*flags), "text")
    require(text.stat().st_size == size, outcome.run, "the size of the text has changed")
    return outcome


def reverse_lines(text: str) -> str:
    return "\n".join(text.rstrip("\n").split("\n")[::-1]) + "\n"


@fault("text", "reversed lines between stop and resume")
def reversed_lines(case: Case) -> Outcome:
    return change_text(case, reverse_lines)


@fault("text", "reversed lines of a stream between stop and resume")
def reversed_stream(case: Case) -> Outcome:
    return change_text(case, reverse_lines, "--streaming")


@fault("text", "a changed word of a stream between stop and resume")
def changed_word(case: Case) -> Outcome:
    return change_text(case, lambda text: text.replace("the ", "teh "), "--streaming")


@fault("text", "a streamed file that is deleted during training")
def deleted_stream(case: Case) -> Outcome:
    text = case.write_text()
    run = case.train("--train_file", text, "--streaming", "--do_eval", "false", "--max_steps", "2000")
    run.wait_for_step(3)
    text.unlink()
    return one_line(run, str(text))


@fault("text", "a file whose name is not UTF-8")
def undecodable_name(case: Case) -> Outcome:
    folder = case.write_text("data/text.txt").parent
    shutil.copy(folder / "text.txt", os.fsencode(folder) + b"/caf\xe9.txt")
    run = case.train("--train_file", os.fsencode(folder) + b"/caf\xe9.txt").end()
    require("--- Logging error ---" not in run.output, run, "Logging error")
    if run.code == 0:
        return same_result(run, case.undisturbed("--train_file", folder / "text.txt"), case.folder / "out")
    return one_line(run, "caf")


@fault("folders", "links in a loop in a data folder")
def link_loop(case: Case) -> Outcome:
    text = case.write_text("data/text.txt")
    for name in ("loop", "again"):
        (text.parent / name).symlink_to(".")
    run = case.train("--train_file", text.parent, "--prepare_only").end(cpu=30)
    require_code(run, 0)
    require("more file" not in run.output, run, "files are read more than once")
    return Outcome(run, run.last_words())


@fault("folders", "an unreadable subfolder")
def unreadable_folder(case: Case) -> Outcome:
    folder = case.write_text("data/secret/text.txt").parent
    case.write_text("data/text.txt")
    folder.chmod(0)
    command = case.command("--train_file", folder.parent, "--prepare_only")
    outcome = one_line(case.start(without_privileges(command)), str(folder))
    folder.chmod(0o700)
    return outcome


@fault("folders", "output_dir in the data folder")
def output_in_data(case: Case) -> Outcome:
    text = case.write_text("data/text.txt")
    data = text.parent
    flags = ["--train_file", data, "--output_dir", data / "out"]
    require_code(case.train(*flags).wait_for_step().send(signal.SIGTERM).end(), 75)
    run = case.train(*flags)
    outcome = same_result(run, case.undisturbed("--train_file", text), data / "out")
    return Outcome(outcome.run, line_with(run, re.escape(str(data / "out")), "left out|leav|skip|ignor|not read"))


@fault("folders", "cache_dir in the data folder")
def cache_in_data(case: Case) -> Outcome:
    data = case.write_text("data/text.txt").parent
    flags = ["--train_file", data, "--cache_dir", data / "cache", "--prepare_only"]
    require_code(case.train(*flags).end(), 0)
    run = case.train(*flags).end()
    require_code(run, 0)
    require("Reusing the prepared corpus" in run.output, run, "prepared again")
    return Outcome(run, line_with(run, re.escape(str(data / "cache")), "left out|leav|skip|ignor|not read"))


# Checkpoints


def link_checkpoint(case: Case, *flags) -> Outcome:
    """Replace the older of two checkpoints by a link; pruning must delete the link and keep its target."""
    require_code(case.train().wait_for_step(32).send(signal.SIGTERM).end(), 75)
    older = min((case.folder / "out").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    elsewhere = case.folder / "elsewhere"
    shutil.move(older, elsewhere)
    before = {path.name: path.read_bytes() for path in elsewhere.iterdir()}
    older.symlink_to(elsewhere)
    run = case.train("--save_total_limit", "1", *flags)
    outcome = same_result(run, case.undisturbed(), case.folder / "out")
    require(not older.is_symlink(), run, "the link was not deleted")
    after = {path.name: path.read_bytes() for path in elsewhere.iterdir()}
    require(after == before, run, "the target of the link has changed")
    return outcome


@fault("checkpoints", "a checkpoint that is a link is pruned")
def pruned_link(case: Case) -> Outcome:
    return link_checkpoint(case)


@fault("checkpoints", "a checkpoint that is a link, with --overwrite_output_dir")
def overwritten_link(case: Case) -> Outcome:
    return link_checkpoint(case, "--overwrite_output_dir", "true")


@fault("checkpoints", "an unreadable checkpoint of another user")
def unreadable_checkpoint(case: Case) -> Outcome:
    require_code(case.train().wait_for_step().send(signal.SIGTERM).end(), 75)
    checkpoints = list((case.folder / "out").glob("checkpoint-*"))
    for checkpoint in checkpoints:
        checkpoint.chmod(0)
    outcome = one_line(case.start(without_privileges(case.command())), "checkpoint")
    for checkpoint in checkpoints:
        checkpoint.chmod(0o700)
    return outcome
