"""Run the commands of the documentation that are marked as quick: ``python -m docs.check_commands [PAGE ...]``.

The pages are README.md, CONTRIBUTING.md, recipes/README.md and docs/*.md, unless others are named. A code block, fenced
or indented, is quick if the line before it, blank lines aside, is ``<!-- quick -->``. Each line of a quick block is a
command; a line that ends in a backslash continues on the next one. Blank lines and comments are skipped. Output of a
command has no place in a quick block.

The commands run in the order of pages and lines, each in a bash of its own, in a scratch copy of the checkout that they
share: a command may use what an earlier one wrote. They have no access to the Hub, and ``python`` is the one that runs
this script. A command that fails, or takes longer than TIMEOUT, is reported with file and line, and the exit code is 1.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
MARK = "<!-- quick -->"
TIMEOUT = 900  # seconds
# Lines of output shown of a command that failed.
SHOWN = 20


def quick_commands(text: str) -> Iterator[tuple[int, str]]:
    """Yield line number and text of each command in the quick blocks of a page."""
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        if lines[number].strip() == MARK:
            begin, end = _block(lines, number + 1)
            yield from _commands(lines, begin, end)
            number = end
        number += 1


def _block(lines: list[str], start: int) -> tuple[int, int]:
    """Return begin and end of the lines of the code block at ``start``, without its fences."""
    while start < len(lines) and not lines[start].strip():
        start += 1
    if start < len(lines) and lines[start].lstrip().startswith("```"):
        ends = (number for number in range(start + 1, len(lines)) if lines[number].strip() == "```")
        return start + 1, next(ends, len(lines))
    end = start
    while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
        end += 1
    if end == start:
        raise ValueError(f"line {start}: no code block follows {MARK}")
    return start, end


def _commands(lines: list[str], begin: int, end: int) -> Iterator[tuple[int, str]]:
    number = begin
    while number < end:
        first = number
        while lines[number].endswith("\\") and number + 1 < end:
            number += 1
        command = "\n".join(line.strip() for line in lines[first : number + 1])
        if command and not command.startswith("#"):
            yield first + 1, command
        number += 1


def copy_checkout(target: Path) -> None:
    """Copy the files that git tracks or would add, with their times, and link the environment of ``make``."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in os.fsdecode(listed.stdout).split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    if (ROOT / ".venv").exists():
        (target / ".venv").symlink_to((ROOT / ".venv").resolve())


def run_commands(pages: list[Path], folder: Path) -> int:
    """Run the quick commands of the pages in a folder; return how many failed."""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / ".huggingface"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    count = failed = 0
    for page in pages:
        for line, command in quick_commands(page.read_text()):
            count += 1
            start = time.monotonic()
            code, output = _run(command, folder, environment)
            print(f"{os.path.relpath(page, ROOT)}:{line}: {command}", f"({time.monotonic() - start:.0f} s)", flush=True)
            if code:
                failed += 1
                print(*output.splitlines()[-SHOWN:], f"error: {os.path.relpath(page, ROOT)}:{line}: {code}", sep="\n")
    print(f"{count - failed} of {count} quick commands succeeded")
    return failed


def _run(command: str, folder: Path, environment: dict[str, str]) -> tuple[str, str]:
    """Run a command; return what went wrong, empty if nothing did, and its output."""
    try:
        result = subprocess.run(
            ["bash", "-c", command],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", timeout=TIMEOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        return f"the command took longer than {TIMEOUT} seconds", os.fsdecode(error.stdout or b"")
    return f"the command failed with exit code {result.returncode}" if result.returncode else "", result.stdout


def main() -> None:
    """Run the quick commands of the pages named on the command line, or of all."""
    pages = [Path(name).resolve() for name in sys.argv[1:]]
    names = ["README.md", "CONTRIBUTING.md", "recipes/README.md"]
    pages = pages or [ROOT / name for name in names] + sorted((ROOT / "docs").glob("*.md"))
    with tempfile.TemporaryDirectory(prefix="cloze-docs-") as folder:
        copy_checkout(Path(folder))
        sys.exit(run_commands(pages, Path(folder)) > 0)


if __name__ == "__main__":
    main()
