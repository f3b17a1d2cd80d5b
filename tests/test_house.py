"""The shape of the package: imports in one direction, no cycles, modules of a readable size, tests that mirror it."""

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.utils import ROOT

PACKAGE = ROOT / "cloze"
# A folder imports from those before it; cli.py and console.py from errors, system and config, and in
# functions from all.
LAYERS = {
    "errors": "UserError",
    "system": "processes and files: signals, output, locks, folders that are complete or absent",
    "config": "what the user sets: dataclasses, recipes, flags",
    "text": "files -> documents",
    "tokenization": "tokenizers, templates, encoding, token cache",
    "data": "token ids -> examples -> batches",
    "objectives": "losses, metrics, the interface of a task",
    "models": "loading, weights, vocabulary, sparse prediction, FLOPs",
    "training": "context, run, trainer, checkpoints, dry run",
    "inference": "predictions of trained models, and the page that shows them",
    "reporting": "summary, history, curves, model card",
    "tasks": "what each script trains",
    "comparison": "several models on the same texts",
}
ORDER = list(LAYERS)
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
MIN_LINES, MAX_LINES = 30, 300


class Import(NamedTuple):
    """An import of a module of the package, as ("cloze", "data", "nsp"), and whether it is within a function."""

    line: int
    module: tuple[str, ...]
    is_lazy: bool


def imports_in(code: str, path: Path) -> list[Import]:
    """Return what the module at ``path`` imports from the package, wherever in the module that is."""
    tree = ast.parse(code)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lazy = {id(node) for function in functions for node in ast.walk(function)}
    return [
        Import(node.lineno, module, id(node) in lazy)
        for node in ast.walk(tree)
        for module in _modules_named(node, path)
        if module[0] == PACKAGE.name
    ]


def _modules_named(node: ast.AST, path: Path) -> Iterator[tuple[str, ...]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield _module(tuple(alias.name.split(".")))
    elif isinstance(node, ast.ImportFrom):
        package = path.relative_to(ROOT).parent.parts
        base = package[: len(package) - node.level + 1] if node.level else ()
        base += tuple(node.module.split(".")) if node.module else ()
        for alias in node.names:
            yield _module((*base, alias.name))


def _module(name: tuple[str, ...]) -> tuple[str, ...]:
    """Return the name of the module that a dotted name is of, without the function or class in it."""
    while len(name) > 1 and not (ROOT.joinpath(*name).is_dir() or ROOT.joinpath(*name).with_suffix(".py").is_file()):
        name = name[:-1]
    return name


def upward_imports(code: str, path: Path) -> list[str]:
    """Return the imports of the module at ``path`` that the table of layers forbids, each with file and line."""
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    found = []
    for line, module, is_lazy in imports_in(code, path):
        target = module[1] if len(module) > 1 else "__init__"
        if layer in ("cli", "console"):
            allowed = ORDER if is_lazy else ["errors", "system", "config"]
        else:
            allowed = ORDER[: ORDER.index(layer)] + [layer] * (PACKAGE / layer).is_dir()
        if target not in allowed:
            found.append(f"{path.relative_to(ROOT)}:{line}: {layer} imports {'.'.join(module)}")
    return found


def cycle_in(folder: Path) -> list[str]:
    """Return modules of a folder that import each other in a circle; empty if there are none."""
    graph = {}
    for path in folder.glob("*.py"):
        modules = [each.module for each in imports_in(path.read_text(), path)]
        graph[path.stem] = {module[2] for module in modules if len(module) > 2 and module[1] == folder.name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_every_folder_has_a_place_in_the_table():
    assert {path.parent.name for path in MODULES if path.parent != PACKAGE} <= LAYERS.keys()
    assert {path.name for path in MODULES if path.parent == PACKAGE} == {"cli.py", "console.py", "errors.py"}


def test_the_readme_lists_the_layers_in_their_order():
    readme = (ROOT / "README.md").read_text().partition("| in `cloze/` |")[2]
    assert re.findall(r"^\| `(\w+)(?:/|\.py)` \|", readme, re.M)[: len(LAYERS) + 1] == [*LAYERS, "cli"]


def test_imports_run_one_way():
    found = [each for path in MODULES for each in upward_imports(path.read_text(), path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("folder", [name for name in LAYERS if name != "errors"])
def test_modules_of_a_folder_import_each_other_without_cycles(folder):
    assert cycle_in(PACKAGE / folder) == []


def test_modules_have_a_readable_size():
    lines = {str(path.relative_to(PACKAGE)): path.read_text().count("\n") for path in MODULES}
    assert not {name: count for name, count in lines.items() if count > MAX_LINES}
    small = {name for name, count in lines.items() if count < MIN_LINES}
    assert not {name for name in small if not name.endswith(("__init__.py", "errors.py"))}


@pytest.mark.parametrize(
    ("module", "code", "problem"),
    [
        ("data/nsp.py", "from cloze.text.files import open_text\nfrom cloze.errors import UserError", ""),
        ("data/nsp.py", "from cloze.data import pairs", ""),
        ("data/nsp.py", "from . import pairs", ""),
        ("data/nsp.py", "import torch\nfrom cloze.models import loading", "2: data imports cloze.models.loading"),
        ("data/nsp.py", "def f():\n    import cloze.training.run", "2: data imports cloze.training.run"),
        (
            "data/nsp.py",
            "if TYPE_CHECKING:\n import cloze.models.loading",
            "2: data imports cloze.models.loading",
        ),
        ("data/nsp.py", "from ..models import loading", "1: data imports cloze.models.loading"),
        ("data/nsp.py", "from cloze.cli import run_script", "1: data imports cloze.cli"),
        ("errors.py", "from cloze.system import locks", "1: errors imports cloze.system.locks"),
        ("cli.py", "from cloze.models.loading import load_model", "1: cli imports cloze.models.loading"),
        ("cli.py", "def f():\n    from cloze.models.loading import load_model", ""),
    ],
)
def test_an_upward_import_is_found_wherever_it_is(module, code, problem):
    assert upward_imports(code, PACKAGE / module) == [f"cloze/{module}:{problem}"] * bool(problem)


def test_a_cycle_is_found(tmp_path, monkeypatch):
    folder = tmp_path / "cloze" / "data"
    folder.mkdir(parents=True)
    for module, imported in {"a": "b", "b": "c", "c": "a"}.items():
        (folder / f"{module}.py").write_text(f"def f():\n    from cloze.data.{imported} import g\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert sorted(set(cycle_in(folder))) == ["a", "b", "c"]
    (folder / "c.py").write_text("import cloze.text.files\n")
    assert cycle_in(folder) == []


def test_the_tests_of_a_folder_are_named_after_its_modules():
    tests = [path for path in ROOT.glob("tests/*/test_*.py") if path.parent.name in LAYERS]
    modules = [PACKAGE / path.parent.name / path.name.removeprefix("test_") for path in tests]
    assert [str(path) for path in modules if not path.is_file()] == []
