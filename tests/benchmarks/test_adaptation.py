"""Test benchmarks/adaptation.py: its texts, its classifier, and the whole with tiny sizes."""

import json
import random
import shlex

import adaptation
import pytest
import torch
from adaptation import Sizes
from adaptation_text import Paragraph, draw, prose, read_general, read_packages, split
from mean_pooling import MeanPooledBert
from transformers import BertConfig

from tests.utils import SAMPLE

DOCSTRING = """Return the mean of the values along an axis, with missing values left out.

    The second paragraph of this docstring
    has two lines, which are joined to one.

    Parameters
    ----------
    axis : int or None, optional, which is a line that no paragraph may have.
        The axis along which the mean is computed.
        By default, this is the axis with number zero.
    name (`str`, *optional*):
        Name of the column that the result has, or the name of the first one.

    >>> mean([1, 2, 3]) is the mean of three values, which is two for these values.

    Too short to be of use.

    - A bullet, which has enough words to be a paragraph, but is one of a list.

    all of its words are here, but a paragraph begins with a capital letter, not so.
    """


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Make two packages from the sample, with 12 modules of 40 docstrings each; return their names."""
    for package in ("astronomy", "cooking"):
        folder = tmp_path / "packages" / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise AssertionError('imported')")
        lines = [line for line in (SAMPLE / f"{package}.txt").read_text().splitlines() if line]
        for number in range(12):
            functions = [
                f'def f{row}():\n    """{line}"""\n'
                for row, line in enumerate(lines[40 * number :][:40])
                if '"' not in line
            ]
            (folder / f"module_{number}.py").write_text("".join(functions))
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    return ["astronomy", "cooking"]


def paragraphs(package, files, each):
    return [Paragraph(f"{package} {file} {row}", package, f"{file}.py") for file in range(files) for row in range(each)]


# Text


def test_prose_leaves_out_code_lists_and_entries_of_parameters():
    assert list(prose(DOCSTRING)) == [
        "Return the mean of the values along an axis, with missing values left out.",
        "The second paragraph of this docstring has two lines, which are joined to one.",
        "The axis along which the mean is computed. By default, this is the axis with number zero.",
        "Name of the column that the result has, or the name of the first one.",
    ]


def test_packages_are_read_without_importing_them_and_their_names_are_hidden(tmp_path, monkeypatch):
    folder = tmp_path / "texts"
    folder.mkdir()
    text = (
        "PyTorch tensors and a pd.DataFrame of sklearn's estimators, Scikit-Learn itself, UpdateNX or plt, "
        "a graph of nx and libpandas"
    )
    (folder / "__init__.py").write_text(f'"""{text}."""\nraise AssertionError("imported")')
    (folder / "copy.py").write_text(f'"""{text.replace("pandas", "torch")}!"""')
    (folder / "broken.py").write_text("def")
    (folder / "tests").mkdir()
    (folder / "tests/test_it.py").write_text('"""Tests are no documentation, so that nothing of them is read here."""')
    monkeypatch.syspath_prepend(str(tmp_path))
    hidden = (
        "library tensors and a library.DataFrame of library's estimators, library itself, UpdateNX or library, "
        "a graph of library and liblibrary."
    )
    assert read_packages(["texts"]) == [Paragraph(hidden, "texts", "__init__.py")]


def test_general_text_has_the_articles_of_the_sample():
    texts = read_general()
    assert texts[0].startswith("Anyone who watches the Moon for a few months")
    assert len(texts) == len(set(texts)) > 1000


def test_no_file_is_in_two_parts():
    found = paragraphs("a", 40, 5) + paragraphs("b", 20, 12)
    texts = split(found, unlabelled=100, pool=20, evaluated=30, rng=random.Random(0))
    files = [{(each.package, each.file) for each in part} for part in (texts.pool, texts.validation, texts.test)]
    rest = {(each.package, each.file) for each in texts.unlabelled + texts.held_out}
    assert sum(map(len, [*files, rest])) == len(set.union(*files, rest))
    assert len(texts.unlabelled) == 100
    for part, count in ((texts.pool, 20), (texts.validation, 30), (texts.test, 30)):
        assert [sum(each.package == package for each in part) for package in "ab"] == [count, count]
    assert not set(texts.unlabelled) & set(texts.held_out)
    assert split(found, 100, 20, 30, random.Random(0)) == texts


def test_too_few_paragraphs_end_the_benchmark():
    with pytest.raises(SystemExit, match="a: too few paragraphs for validation"):
        split(paragraphs("a", 4, 10), unlabelled=100, pool=20, evaluated=30, rng=random.Random(0))


def test_larger_draws_hold_the_smaller_ones():
    pool = paragraphs("a", 4, 5) + paragraphs("b", 4, 5)
    small, large = (draw(pool, per_class, seed=42) for per_class in (3, 10))
    assert set(small) < set(large)
    assert [sum(each.package == package for each in small) for package in "ab"] == [3, 3]
    assert set(draw(pool, 3, seed=43)) != set(small)


# Classifier


def test_mean_pooling_reads_all_tokens_but_padding():
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=3
    )
    torch.manual_seed(0)
    model = MeanPooledBert(config).eval()
    ids = torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]])
    logits = model(ids, attention_mask=(ids > 0).long(), labels=torch.tensor([1, 2])).logits
    hidden = model.bert(ids[1:, :3]).last_hidden_state
    torch.testing.assert_close(logits[1], model.classifier(hidden[0].mean(0)))
    torch.testing.assert_close(model(ids[1:, :3]).logits[0], logits[1])


# The whole


@pytest.mark.slow
def test_benchmark_compares_models(packages, tmp_path, capsys):
    pretraining = shlex.split(
        "--config_overrides hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32 "
        "--vocab_size 400 --num_train_epochs 1"
    )
    sizes = Sizes(
        unlabelled=300,
        pool=10,
        evaluated=40,
        labels=(5,),
        seeds=2,
        small=tuple(pretraining),
        tuning=("--num_train_epochs", "2"),
    )
    results = adaptation.run(tmp_path / "work", sizes, packages, None)
    (comparison,) = results["small"]["comparisons"]
    assert comparison["test_examples"] == 80
    assert comparison["seeds"] == [42, 43]
    scratch, pretrained = comparison["models"]
    assert (scratch["name"], pretrained["name"]) == ("scratch", "pretrained")
    assert all(0 < accuracy < 1 for model in comparison["models"] for accuracy in model["accuracy"]["by_seed"])
    printed = capsys.readouterr().out
    assert "Paragraphs: " in printed
    assert "5 labels per class, 80 test texts, 2 seeds" in printed
    # Nothing is repeated.
    assert adaptation.run(tmp_path / "work", sizes, packages, None) == json.loads(json.dumps(results))
