"""Bundled recipes and sample text are found from any folder; files of the user win."""

import logging

import pytest

import run_mlm
from cloze.config import parser
from cloze.system.bundled import find_bundled
from tests.utils import ROOT


def test_a_bundled_recipe_and_its_text_are_found_from_another_folder(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "cloze")
    _, data_args, training_args = parser.parse(["recipes/quickstart/mlm.yaml"], parser.settings_of(run_mlm.main))
    assert data_args.train_file == [str(ROOT / "sample")]
    assert training_args.output_dir == "results/quickstart-mlm"
    recipe = ROOT / "recipes" / "quickstart" / "mlm.yaml"
    assert f"recipes/quickstart/mlm.yaml is not in the current folder: using the bundled {recipe}" in caplog.text
    assert f"sample is not in the current folder: using the bundled {ROOT / 'sample'}" in caplog.text


def test_files_of_the_user_win(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "cloze")
    (tmp_path / "sample").mkdir()
    assert find_bundled("sample") == "sample"
    assert not caplog.messages


@pytest.mark.parametrize(
    "name",
    ["", "sample/none.txt", "recipes/../README.md", "README.md", "./sample/../sample", "sample/*.txt", "sample/\0",
     "sample/" + "a" * 5000],
)  # fmt: skip
def test_nothing_else_is_looked_up(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_bundled(name) == name
    assert find_bundled(str(ROOT / "sample")) == str(ROOT / "sample")
