"""What README, docs and recipes name exists: linked files and anchors, paths, flags, and settings in YAML."""

import ast
import dataclasses
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

import run_classification
import run_clm
import run_mlm
import run_nsp
import run_plm
import run_pretraining
from cloze.config.deprecated_flags import DROPPED, RENAMED, REPLACED
from cloze.config.parser import settings_of
from docs import check_commands
from docs.check_commands import MARK, quick_blocks, run_blocks
from tests.utils import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / folder / "README.md" for folder in ("recipes", "benchmarks")),
    *sorted((ROOT / "docs").glob("*.md")),
]
SCRIPTS = (run_mlm, run_clm, run_plm, run_nsp, run_pretraining, run_classification)
# Flags of other tools that the pages name: accelerate, torchrun, pip, sbatch, srun and TensorBoard.
OTHER_FLAGS = {
    *("config_file", "num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port", "cpu"),
    *("no_python", "fsdp_transformer_layer_cls_to_wrap", "mixed_precision", "nproc_per_node", "nnodes", "node_rank"),
    *("rdzv_backend", "rdzv_endpoint", "no-python", "standalone", "master_addr", "master_port"),
    *("target", "no-deps", "no-index", "upgrade", "editable", "extra-index-url"),
    *("requeue", "signal", "time", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "wrap", "export"),
    *("help", "version", "logdir", "preserve-status", "quiet"),
    # Any flag, and a misspelt one, in an example of the error.
    *("flag", "lerning_rate"),
}
FOLDERS = ("recipes", "benchmarks", "cloze", "sample", "tests", "docs")
PATH = re.compile(rf"(?<![\w/.~-])(?:{'|'.join(FOLDERS)})/[\w./*-]*[\w/*]")
SCRIPT = re.compile(r"(?:python|nproc_per_node \S+|num_processes \S+) ([\w/]+\.py)\b")
FLAG = re.compile(r"(?<![\w-])--([A-Za-z][\w-]*)")
# Conversions in messages of the logging module.
CONVERSION = re.compile(r"%[\d.]*[a-z]")
# Messages of other programs: Starlette's, which tests/app/test_app.py asserts.
OTHER_MESSAGES = {"Invalid host header"}
# Fewer characters in a row would occur in any message.
MIN_FIXED_CHARS = 10
LINK = re.compile(r"\[(?:[^][]|\[[^]]*\])*\]\(([^)\s]+)\)")


def code_in(text: str) -> Iterator[tuple[int, str]]:
    """Yield line number and text of each code span, and of each line of a code block."""
    is_fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            is_fenced = not is_fenced
        elif is_fenced or line.startswith("    "):
            yield number, line
        else:
            yield from ((number, span) for span in re.findall(r"`([^`]+)`", line))


def anchors_of(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    anchors: list[str] = []
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for title in re.findall(r"^#{1,6} +(.+?) *#*$", prose, re.M):
        title = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)
        anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        anchors.append(f"{anchor}-{anchors.count(anchor)}" if anchor in anchors else anchor)
    return {*anchors, *re.findall(r'<a (?:id|name)="([^"]+)"', text)}


def broken_links(text: str, page: Path) -> list[str]:
    """Return the relative links whose file or anchor is missing."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        for link in LINK.findall(line):
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            path = page.parent / target
            is_missing = bool(target) and not path.exists()
            if is_missing or (anchor and anchor not in anchors_of(path.read_text() if target else text)):
                found.append(f"{page.name}:{number}: {link}")
    return found


def missing_paths(text: str, page: Path) -> list[str]:
    """Return the paths in the folders of the project, and the scripts of commands, that are missing."""
    found = []
    for number, code in code_in(text):
        for name in [*PATH.findall(code), *SCRIPT.findall(code)]:
            is_pattern = "..." in name or code.partition(name)[2].startswith("...")
            if not is_pattern and not any(ROOT.glob(name.rstrip("/"))):
                found.append(f"{page.name}:{number}: {name}")
    return found


@cache
def known_flags() -> set[str]:
    """Return the flags of scripts and benchmarks, those that scripts replace, and those of other tools."""
    settings = {
        field.name for script in SCRIPTS for kind in settings_of(script.main) for field in dataclasses.fields(kind)
    }
    sources = [ROOT / "app.py", *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "tests").rglob("conftest.py")]
    parsed = {flag for path in sources for flag in re.findall(r'"--([\w-]+)"', path.read_text())}
    return settings | parsed | {*RENAMED, *REPLACED, *DROPPED} | OTHER_FLAGS


def unknown_flags(text: str, page: Path) -> list[str]:
    """Return the flags that no script and no tool has."""
    known = known_flags()
    return [
        f"{page.name}:{number}: --{flag}"
        for number, code in code_in(text)
        for flag in FLAG.findall(code)
        if not {flag, flag.replace("-", "_"), flag.removeprefix("no_"), flag.removeprefix("no-")} & known
    ]


def unknown_settings(text: str, page: Path) -> list[str]:
    """Return the keys of recipes in YAML blocks that no script knows; other YAML names its kind or its launcher."""
    found = []
    for block in re.findall(r"^```ya?ml\n(.*?)^```", text, re.M | re.S):
        for document in yaml.safe_load_all(block):
            if not {"apiVersion", "compute_environment"} & document.keys():
                found += [f"{page.name}: {key}" for key in document if key not in known_flags() - OTHER_FLAGS]
    return found


def text_of(node: ast.AST) -> str:
    """Return a string expression with ``...`` for what varies."""
    match node:
        case ast.Constant(value=str(text)):
            return CONVERSION.sub("...", text).replace("%%", "%")
        case ast.JoinedStr(values=parts):
            return "".join(map(text_of, parts))
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return text_of(left) + text_of(right)
    return "..."


def strings_in(source: str) -> list[str]:
    """Return the strings of a module but docstrings, each whole, without the prefix of warnings."""
    nodes = list(ast.walk(ast.parse(source)))
    # A part of a longer string is no message.
    wholes = (ast.Expr, ast.JoinedStr, ast.BinOp)
    parts = {part for node in nodes if isinstance(node, wholes) for part in ast.iter_child_nodes(node)}
    texts = [text_of(node) for node in nodes if isinstance(node, ast.expr) and node not in parts]
    return [text.strip().removeprefix("warning: ") for text in texts if text.strip(".")]


@cache
def messages() -> list[str]:
    """Return the strings of the package and of the scripts."""
    paths = [*ROOT.glob("*.py"), *(ROOT / "cloze").rglob("*.py")]
    return [text for path in paths for text in strings_in(path.read_text())]


def is_message(pattern: str, texts: list[str]) -> bool:
    """Return whether one text equals the pattern, in which ``...`` stands for any characters."""
    fixed = pattern.split("...")
    if max(map(len, fixed)) < MIN_FIXED_CHARS:
        return False
    expression = re.compile(".*".join(map(re.escape, fixed)), re.S)
    return any(map(expression.fullmatch, texts))


def unknown_messages(text: str) -> list[str]:
    """Return the code spans in the first columns of tables that are no message of the source."""
    return [
        f"line {number}: {span}"
        for number, line in enumerate(text.splitlines(), 1)
        if line.startswith("|")
        for span in re.findall(r"`([^`]+)`", line.split("|")[1])
        if span not in OTHER_MESSAGES and not is_message(span, messages())
    ]


CHECKS = {
    broken_links: (
        "# Long runs\n[a](#long-runs) [b](https://x.org/y) ![c](app.png) [d](../recipes/README.md#recipes)",
        ["[a](#short-runs)", "[b](none.md)", "![c](none.png)", "[d](../recipes/README.md#none)"],
    ),
    missing_paths: (
        "`cloze/data/` `sample/*.txt` `recipes/...yaml` `x/docs/none.md`\n\n    python run_mlm.py sample/music.txt\n",
        ["`cloze/none.py`", "`recipes/none/*.yaml`", "```\npython run_none.py\n```", "    cat sample/none.txt"],
    ),
    unknown_flags: (
        "`--bf16` `--train-file x` `--no_cuda`, --- and --prose\n\n    torchrun --nnodes 2 run_mlm.py --dry_run\n",
        ["`--dry_runs`", "    python run_mlm.py --max_step 3", "```\napp --sahre\n```"],
    ),
    unknown_settings: (
        "```yaml\nmodel_type: bert\nmax_steps: 3\n```\n```yaml\napiVersion: v1\n```",
        ["```yaml\nmax_step: 3\n```"],
    ),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_pages_name_what_exists(check):
    found = [problem for page in PAGES for problem in check(page.read_text(), page)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_name_of_nothing_is_found(check):
    right, wrong = CHECKS[check]
    page = ROOT / "docs" / "page.md"
    assert check(right, page) == []
    for text in wrong:
        assert len(check(f"{right}\n{text}", page)) == 1, text


def test_messages_on_the_page_are_those_of_the_source():
    right = "| `out of memory: ...`, or prose | `--no_message` |\n| `Invalid host header` | |\n`no table`\n"
    assert unknown_messages(right) == []
    assert unknown_messages((ROOT / "docs" / "troubleshooting.md").read_text()) == []
    wrong = ["out of memory", "out of memory: ... again", "of memory: ...", "...", "...: ...", "no such message: ..."]
    for message in wrong:
        assert len(unknown_messages(f"{right}| `{message}` | |")) == 1, message


def test_messages_are_whole_strings_without_docstrings():
    source = '''
"""Describe the module."""
raise UserError(
    f"{name} has {count:,} values ({', '.join(names)})"
    ": give fewer" + f", at most {bound}" * is_bounded + " of them"
)
logger.warning("%s: %.1f %% of %d rows", name, share, count)
report = f"warning: cannot write to {name}\\n"
'''
    texts = strings_in(source)
    assert "... has ... values (...): give fewer... of them" in texts
    assert "...: ... % of ... rows" in texts
    assert "cannot write to ..." in texts
    assert not any(text.startswith(("Describe", ": give", " of them", "of them")) for text in texts)


def test_anchors_are_those_of_github():
    text = "# A `--flag`, and more\n## A\n## A\n```\n# no heading\n```\n"
    assert anchors_of(text) == {"a---flag-and-more", "a", "a-1"}


def test_quick_blocks_are_the_marked_ones():
    text = """
```bash
not marked
```

<!-- quick -->
```bash
# a comment
echo one \\
    two

echo three
```
<!-- quick -->

    for i in 1 2; do
        echo $i

    done
text
"""
    blocks = [(8, "# a comment\necho one \\\n    two\n\necho three"), (16, "for i in 1 2; do\n    echo $i\n\ndone")]
    assert list(quick_blocks(text)) == blocks
    with pytest.raises(ValueError, match="line 1: no code block follows"):
        list(quick_blocks("<!-- quick -->\ntext"))


@pytest.mark.parametrize(
    ("last", "error"),
    [
        ("true", ""),
        ("false\nrm file", "8: the command failed with exit code 1"),
        ("for i in 1; do\n  (exit 7)\ndone\nrm file", "9: the command failed with exit code 7"),
        ("(exit 3) | cat\nrm file", "8: the command failed with exit code 3"),
        ("exit 4", "5: the command failed with exit code 4"),
        ("sleep 60 & wait", "5: the command failed with exit code 124"),
    ],
)
def test_quick_blocks_share_a_folder_and_fail_with_file_and_line(last, error, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(check_commands, "TIMEOUT", 5)
    page = tmp_path / "page.md"
    first = f"# A\n\n{MARK}\n```\na=$HF_HUB_OFFLINE\necho $a \\\n    > file\n"
    page.write_text(f"{first}{last}\n```\n{MARK}\n```\ncat file\n```\n")
    assert run_blocks([page], tmp_path) == bool(error)
    printed = capfd.readouterr().out
    assert (f"page.md:{error}\n" in printed) == bool(error)
    assert f"{2 - bool(error)} of 2 quick blocks succeeded" in printed
    assert (tmp_path / "file").read_text() == "1\n"
