"""Test how fast a wrong flag is reported, and that python -OO is an error."""

import subprocess
import sys
from collections import namedtuple
from types import SimpleNamespace

import pytest

from cloze import cli
from cloze.config.arguments import ModelArguments, TrainingArguments
from cloze.config.data_arguments import DataTrainingArguments

Flags = namedtuple("Flags", "optimize")
LEAST_ARGV = ["--model_name_or_path=model", "--train_file=text.txt", "--do_train=True"]


def test_settings_are_read_before_the_libraries_of_models_and_data_are_imported():
    """With those libraries, --help and a wrong flag take three times as long."""
    code = (
        "import sys, run_classification, run_clm, run_plm, run_mlm, run_nsp, run_pretraining\n"
        "try: run_mlm.run_script(run_mlm.main, ['--model_type=bert', '--train_file=x', '--do_train', '--seed=-1'])\n"
        "except SystemExit: print(*sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr == "error: --seed -1 is negative: give 0 or more\n"
    imported = set(result.stdout.split())
    assert "cloze.cli" in imported
    heavy = {"datasets", "evaluate", "matplotlib", "sentencex", "transformers.modeling_utils"}
    assert not heavy & imported


def test_python_without_docstrings_is_one_line_error(monkeypatch, capsys, tmp_path):
    """Under python -OO, transformers fails with a traceback when it builds a model. Python -O works.

    The test starts no process: it would compile all libraries first.
    """
    monkeypatch.chdir(tmp_path)  # where the default output_dir is locked
    called = []

    def main(model_args: ModelArguments, data_args: DataTrainingArguments, training_args: TrainingArguments):
        called.append(model_args)

    for level in (0, 1):
        monkeypatch.setattr(cli, "sys", SimpleNamespace(**vars(sys) | {"flags": Flags(level)}))
        cli.run_script(main, LEAST_ARGV)
    monkeypatch.setattr(cli, "sys", SimpleNamespace(**vars(sys) | {"flags": Flags(2)}))
    with pytest.raises(SystemExit):
        cli.run_script(main, LEAST_ARGV)
    assert len(called) == 2
    assert capsys.readouterr().err.startswith("error: transformers cannot build a model without docstrings")
