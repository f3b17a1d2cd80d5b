"""What pyproject.toml declares: imports, the ranges of the requirements files, commands, and a wheel that works."""

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
from hatchling.build import build_wheel

from tests.utils import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Distributions whose module has another name.
DISTRIBUTIONS = {"yaml": "pyyaml"}
SCRIPTS = (
    "run_mlm.py",
    "run_clm.py",
    "run_plm.py",
    "run_nsp.py",
    "run_pretraining.py",
    "run_classification.py",
    "app.py",
)


def name_of(requirement: str) -> str:
    """Return the name in a requirement, spelt as in an import."""
    return re.match(r"[\w-]+", requirement)[0].lower().replace("-", "_")


def requirements_in(file: str) -> list[str]:
    """Return the requirements in a file, without those of the files that it includes."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("-r")]


def imports_of(path) -> set[str]:
    """Return the top-level names of the packages that a module imports, at the top or in a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"cloze"}


@pytest.mark.parametrize(
    ("file", "declared"),
    [
        ("requirements.txt", PROJECT["dependencies"]),
        ("requirements-app.txt", EXTRAS["app"]),
        ("requirements-docs.txt", EXTRAS["docs"]),
    ],
)
def test_requirements_files_and_pyproject_agree(file, declared):
    assert sorted(requirements_in(file)) == sorted(declared)


def test_requirements_of_the_tests_agree_with_the_extras():
    files = requirements_in("requirements-test.txt") + requirements_in("requirements-test-app.txt")
    extras = [each for name in ("test", "trackers", "nanotoken", "dev") for each in EXTRAS[name]]
    assert sorted(files) == sorted(extras)


def test_the_oldest_versions_are_the_lower_bounds():
    declared = [*PROJECT["dependencies"], *EXTRAS["trackers"], *EXTRAS["nanotoken"], *EXTRAS["test"]]
    bounds = {name_of(each): re.search(r">=([\d.]+)", each)[1] for each in declared if name_of(each) != "selenium"}
    oldest = {name_of(each): each.partition("==")[2] for each in requirements_in("requirements-oldest.txt")}
    assert oldest.keys() == bounds.keys()
    # 3 and 3.0.0 are the same version.
    assert {n: re.sub(r"(\.0)+$", "", v) for n, v in oldest.items()} == {
        n: re.sub(r"(\.0)+$", "", v) for n, v in bounds.items()
    }


def test_every_import_is_declared():
    declared = {name_of(each) for each in PROJECT["dependencies"]}
    optional = {name_of(each) for name in ("app", "nanotoken", "trackers") for each in EXTRAS[name]}
    undeclared, lazy = [], set()
    for path in [*(ROOT / "cloze").rglob("*.py"), *(ROOT / script for script in SCRIPTS)]:
        for module in imports_of(path):
            name = DISTRIBUTIONS.get(module, module)
            if name in optional:
                lazy.add(name)
            elif name not in declared:
                undeclared.append(f"{path.relative_to(ROOT)} imports {module}")
    assert undeclared == []
    assert lazy == {"gradio", "starlette", "nanotoken"}


def test_every_dependency_is_imported_and_matplotlib_in_one_module():
    modules = {path: imports_of(path) for path in (ROOT / "cloze").rglob("*.py")}
    imported = {DISTRIBUTIONS.get(name, name) for names in modules.values() for name in names}
    assert {name_of(each) for each in PROJECT["dependencies"]} <= imported
    assert [path.name for path, names in modules.items() if "matplotlib" in names] == ["plots.py"]


def test_commands_are_functions_of_the_package():
    for target in PROJECT["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
    assert len(PROJECT["scripts"]) == len(SCRIPTS)


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    return tmp_path / build_wheel(str(tmp_path))


def test_the_wheel_has_scripts_recipes_and_sample_inside_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names} == {"cloze", f"cloze-{PROJECT['version']}.dist-info"}
    bundled = {name.removeprefix("cloze/bundled/") for name in names if name.startswith("cloze/bundled/")}
    files = [path for folder in ("recipes", "sample") for path in (ROOT / folder).rglob("*") if path.is_file()]
    assert bundled == {*SCRIPTS, *(str(path.relative_to(ROOT)) for path in files)}
    assert f"cloze-{PROJECT['version']}.dist-info/licenses/LICENSE" in names


@pytest.mark.slow
def test_an_installed_command_trains_from_another_folder(wheel, tmp_path):
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(pip, check=True)
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def run(*command):
        return subprocess.run(
            [sys.executable, site / "bin" / command[0], *command[1:]],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    assert run("cloze-mlm", "--help").startswith("usage: cloze-mlm [RECIPE.yaml]")
    assert "usage: cloze-app" in run("cloze-app", "--help")
    printed = run("cloze-mlm", "recipes/quickstart/mlm.yaml", "--max_steps", "2", "--use_cpu")
    assert f"using the bundled {site / 'cloze' / 'bundled' / 'sample'}" in printed
    assert (tmp_path / "results" / "quickstart-mlm" / "model.safetensors").is_file()
