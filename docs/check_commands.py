"""Run the commands of the documentation that are marked as quick: ``python -m docs.check_commands [PAGE ...]``.

The pages are README.md, CONTRIBUTING.md, recipes/README.md and docs/*.md, unless others are named. A code block, fenced
or indented, is quick if the line before it, blank lines aside, is ``<!-- quick -->``. A quick block is a bash script:
commands, continued by backslashes, loops, comments; output of a command has no place in it.

The blocks run in the order of pages and lines, in a scratch copy of the checkout that they share: a command may use
what an earlier one wrote. They have no access to the Hub, and ``python`` is the one that runs this script. The first
command that fails ends its block; it is reported with file and line, and the exit code is 1. A block that takes longer
than TIMEOUT fails with exit code 124.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
MARK = "<!-- quick -->"
TIMEOUT = 900  # seconds
# Lines of output shown of a command that failed.
SHOWN = 20


def quick_blocks(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number of the first line, and the text, of each quick block of a page."""
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        if lines[number].strip() == MARK:
            begin, number = _block(lines, number + 1)
            yield begin + 1, textwrap.dedent("\n".join(lines[begin:number])).rstrip()
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


def run_blocks(pages: list[Path], folder: Path) -> int:
    """Run the quick blocks of the pages in a folder; return how many failed."""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / ".huggingface"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    count = failed = 0
    for page in pages:
        for line, script in quick_blocks(page.read_text()):
            name = f"{os.path.relpath(page, ROOT)}:{line}"
            start = time.monotonic()
            error, output = _run(script, line, folder, environment)
            print(f"{name} ({time.monotonic() - start:.0f} s)", textwrap.indent(script, "    "), sep="\n", flush=True)
            count += 1
            if error:
                failed += 1
                print(*output.splitlines()[-SHOWN:], f"error: {os.path.relpath(page, ROOT)}:{error}", sep="\n")
    print(f"{count - failed} of {count} quick blocks succeeded")
    return failed


def _run(script: str, line: int, folder: Path, environment: dict[str, str]) -> tuple[str, str]:
    """Run the block at ``line``; return line and reason of a failure, empty if there is none, and the output."""
    # In the trap, $LINENO counts from this line of the script.
    trap = f"set -eEo pipefail; trap 'echo $? $((LINENO + {line - 2})) >&3' ERR\n"
    with tempfile.TemporaryFile("w+") as failure:
        # timeout ends all that the block started, with exit code 124.
        command = ["timeout", str(TIMEOUT), "bash", "-c", f"exec 3>&{failure.fileno()}; {trap}{script}"]
        result = subprocess.run(
            command, cwd=folder, env=environment, pass_fds=[failure.fileno()], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        failure.seek(0)
        # By default, as where bash is ended: the block's.
        code, number = [result.returncode, line, *failure.read().split()][-2:]
    return f"{number}: the command failed with exit code {code}" if result.returncode else "", result.stdout


def main() -> None:
    """Run the quick blocks of the pages named on the command line, or of all."""
    pages = [Path(name).resolve() for name in sys.argv[1:]]
    names = ["README.md", "CONTRIBUTING.md", "recipes/README.md"]
    pages = pages or [ROOT / name for name in names] + sorted((ROOT / "docs").glob("*.md"))
    with tempfile.TemporaryDirectory(prefix="cloze-docs-") as folder:
        copy_checkout(Path(folder))
        sys.exit(run_blocks(pages, Path(folder)) > 0)


if __name__ == "__main__":
    main()
