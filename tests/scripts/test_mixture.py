"""Test mixtures of named training texts end to end: what is trained on, logged and written."""

import json
import re

import pytest
import yaml

from tests.utils import SAMPLE

FILES = ("--train_file", f"music={SAMPLE}/music.txt", f"cooking={SAMPLE}/cooking.txt")


@pytest.fixture
def train(run_mlm_script, checkpoint, tmp_path):
    """``train(...)`` gives output and results of a run on the two texts."""

    def run(*argv, recipe=()):
        out = tmp_path / "out"
        code, printed, errors = run_mlm_script(
            *recipe, "--model_name_or_path", checkpoint("bert"), "--do_train", "--max_seq_length", 64,
            "--output_dir", out, *FILES, *argv,
        )  # fmt: skip
        assert (code, errors) == (0, "")
        return printed, json.loads((out / "all_results.json").read_text())

    return run


def tokens_in_blocks(printed, name):
    """Return the tokens of a text in blocks of 62, with the special tokens of each."""
    documents, tokens = re.search(
        rf"\nTraining text, {name}: (\d+) (?:of \d+ )?documents, ([\d,]+) tokens", printed
    ).groups()
    joined = int(tokens.replace(",", "")) + int(documents) - 1
    return joined + 2 * -(-joined // 62)


def test_epoch_is_a_pass_over_the_first_text_with_its_share_of_the_tokens(train, tmp_path):
    printed, results = train("--mixture", "music=0.8", "cooking=0.2", "--num_train_epochs", 2, "--do_eval")
    music, cooking = (tokens_in_blocks(printed, name) for name in ("music", "cooking"))
    share = (
        f"music 80.0% of the tokens ({music:,} in an epoch, 1.00 passes), "
        f"cooking 20.0% of the tokens ({round(music / 4):,} in an epoch, {music / 4 / cooking:.2f} passes)"
    )
    assert f"\nMixture: {share}\n" in printed
    assert f"| mixture | {share} |" in (tmp_path / "out" / "README.md").read_text()
    assert re.search(rf"\n  Mixture +{re.escape(share)}\n", printed), "in the summary"
    assert abs(results["train_tokens"] - 2 * 1.25 * music) < 64
    assert {"eval_music_loss", "eval_cooking_loss"} <= results.keys()
    recipe = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    assert recipe["mixture"] == ["music=0.8", "cooking=0.2"]


def test_recipe_holds_the_shares(train, tmp_path):
    (tmp_path / "mixed.yaml").write_text("mixture: [music=90, cooking=10]\nmax_steps: 1\n")
    printed, _ = train(recipe=[tmp_path / "mixed.yaml"])
    assert "\nMixture: music 90.0% of the tokens (" in printed


def test_without_shares_each_text_is_trained_on_once_an_epoch(train):
    printed, results = train("--num_train_epochs", 1)
    music, cooking = (tokens_in_blocks(printed, name) for name in ("music", "cooking"))
    assert (
        f"cooking {cooking / (music + cooking):.1%} of the tokens ({cooking:,} in an epoch, 1.00 passes)\n" in printed
    )
    assert results["train_tokens"] == music + cooking


def test_stream_reports_the_shares_that_it_trained_on(train, tmp_path):
    printed, results = train("--mixture", "music=0.7", "cooking=0.3", "--streaming", "--max_steps", 120)
    assert "\nMixture: music 70.0%, cooking 30.0% of the tokens\n" in printed
    assert abs(results["train_share_music"] - 0.7) < 0.01
    assert results["train_share_music"] + results["train_share_cooking"] == pytest.approx(1)
    summary = f"music {results['train_share_music']:.1%}, cooking {results['train_share_cooking']:.1%} of the tokens"
    assert f"| mixture | {summary} |" in (tmp_path / "out" / "README.md").read_text()


def test_small_text_is_repeated_with_a_warning(train):
    printed, _ = train("--mixture", "music=0.2", "cooking=0.8", "--max_steps", 1)
    assert re.search(r"\nwarning: cooking is repeated [34]\.\d times in an epoch, because it has fewer tokens", printed)


def test_limit_of_training_samples_is_for_the_first_text(train):
    printed, results = train(
        "--mixture", "music=0.5", "cooking=0.5", "--max_train_samples", 10, "--num_train_epochs", 1
    )
    assert "\nTraining examples, music: 10 blocks" in printed
    assert results["train_samples"] == 20
