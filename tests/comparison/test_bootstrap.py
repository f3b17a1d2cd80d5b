"""Test the statistics of a comparison, and its table."""

import numpy as np
import pytest

from cloze.comparison.bootstrap import Outcome, bootstrap_difference, difference, summarise
from cloze.comparison.table import format_comparison


def outcomes(hits: np.ndarray) -> list[Outcome]:
    """Return the outcomes of runs with these hits, [seeds, texts]."""
    return [
        Outcome(row.mean(), row.mean() / 2, 10.0 + seed, ["a"] * len(row), np.where(row, "a", "b").tolist())
        for seed, row in enumerate(hits)
    ]


def test_bootstrap_finds_no_difference_of_a_model_to_itself():
    runs = outcomes(np.random.default_rng(0).random((3, 200)) < 0.8)
    against = difference(runs, runs, np.random.default_rng(0))
    assert against == {"accuracy": 0.0, "interval": [0.0, 0.0], "p_value": 1.0, "exceeds_noise": False}


def test_bootstrap_finds_a_large_difference_with_its_sign():
    rng = np.random.default_rng(0)
    worse, better = outcomes(rng.random((3, 300)) < 0.7), outcomes(rng.random((3, 300)) < 0.85)
    up, down = (difference(*pair, np.random.default_rng(0)) for pair in ((worse, better), (better, worse)))
    assert up["exceeds_noise"]
    assert down["exceeds_noise"]
    assert up["accuracy"] == pytest.approx(-down["accuracy"]) == pytest.approx(0.15, abs=0.05)
    low, high = up["interval"]
    assert 0 < low < up["accuracy"] < high


def test_bootstrap_rarely_finds_a_difference_where_none_is():
    """With texts of unequal difficulty and seeds of unequal luck, at most 10 of 100 comparisons find a difference.

    A test over texts alone finds one in more than 25.
    """
    rng = np.random.default_rng(0)
    found = alone = 0
    for _ in range(100):
        ease = 1.5 + 2 * rng.normal(size=200)
        runs = [rng.random((3, 200)) < 1 / (1 + np.exp(-ease - 0.5 * rng.normal(size=(3, 1)))) for _ in range(2)]
        gains = runs[1].astype(float) - runs[0]
        drawn = bootstrap_difference(gains, rng, draws=400)
        found += min((drawn <= 0).mean(), (drawn >= 0).mean()) < 0.025
        signs = rng.choice([-1, 1], size=(400, 200))
        alone += (abs(signs @ gains.mean(0)) >= abs(gains.mean(0).sum())).mean() < 0.05
    assert found <= 10
    assert alone > 25


def test_bootstrap_of_one_seed_resamples_texts_only():
    """The deviation of the mean is the deviation of the texts over the root of their number."""
    gains = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], size=(1, 400), p=[0.1, 0.7, 0.2])
    drawn = bootstrap_difference(gains, np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(gains.mean(), abs=1e-3)
    assert drawn.std() == pytest.approx(gains.std() / 20, rel=0.03)


def test_seeds_widen_the_interval_as_their_deviation_says():
    """If each seed gains the same on all texts, only the deviation of three seeds over the root of three is left."""
    gains = np.array([[0.0], [0.01], [0.05]]).repeat(100, axis=1)
    drawn = bootstrap_difference(gains, np.random.default_rng(0))
    assert drawn.std() == pytest.approx(np.std([0, 0.01, 0.05], ddof=1) / np.sqrt(3), rel=0.03)


def test_the_comparison_has_means_spreads_and_differences_to_the_first():
    hits = np.array([[1, 1, 0, 0], [1, 1, 1, 0]], dtype=bool)
    comparison = summarise([("old", "a"), ("new", "b")], [outcomes(hits), outcomes(~hits)], [7, 8])
    assert comparison["test_examples"] == 4
    assert comparison["seeds"] == [7, 8]
    old, new = comparison["models"]
    assert old["accuracy"] == {"mean": 0.625, "std": pytest.approx(0.125 * 2**0.5), "by_seed": [0.5, 0.75]}
    assert old["macro_f1"]["mean"] == 0.3125
    assert old["seconds"]["mean"] == 10.5
    assert old["difference"] is None
    assert new["model"] == "b"
    assert new["difference"]["accuracy"] == -0.25
    header, *rows = format_comparison(comparison).splitlines()
    assert header.split("   ")[-1].strip() == "Time"
    assert "Difference to old" in header
    assert "62.5% ± 17.7" in rows[0]
    assert "-25.0 (" in rows[1]
    assert rows[1].endswith("10 s")


def test_standard_deviation_of_one_seed_is_none():
    runs = outcomes(np.ones((1, 3), dtype=bool))
    comparison = summarise([("a", "a"), ("b", "b")], [runs, runs], [0])
    assert comparison["models"][0]["accuracy"] == {"mean": 1.0, "std": None, "by_seed": [1.0]}
    assert "±" not in format_comparison(comparison)
    assert "no difference beyond noise of the texts (the noise of seeds is unknown with one seed)" in format_comparison(
        comparison
    )
