"""Estimate whether the difference between two classifiers exceeds the noise of texts and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Number of bootstrap samples, and the number drawn at a time.
DRAWS, CHUNK_DRAWS = 10_000, 500
# A difference with a smaller p-value exceeds the noise.
LEVEL = 0.05


@dataclass(frozen=True)
class Outcome:
    """Hold the results of a run.

    Attributes:
        accuracy: between 0 and 1.
        macro_f1: between 0 and 1.
        seconds: of training.
        labels: the class of each held-out text.
        predictions: the predicted class of each held-out text.
        digests: of the training texts and of the held-out texts.
    """

    accuracy: float
    macro_f1: float
    seconds: float
    labels: list[str]
    predictions: list[str]
    digests: Sequence[str] = ()

    @property
    def hits(self) -> np.ndarray:
        """Return whether the prediction for each text is right, bool [texts]."""
        return np.array(self.labels) == np.array(self.predictions)


def bootstrap_difference(differences: np.ndarray, rng: np.random.Generator, draws: int = DRAWS) -> np.ndarray:
    """Return bootstrap samples of the mean difference, [draws].

    Texts and seeds are drawn with replacement, as in the Multi-Bootstrap for paired seeds (Sellam et al., 2022). A test
    over texts alone would mistake a lucky seed for a better model. The deviation between n seeds is scaled by
    sqrt(n / (n - 1)), because resampling underestimates it by this factor, considerably for 3 seeds.

    Args:
        differences: score of the second model minus the score of the first, [seeds, texts].
        rng: of the draws.
        draws: number of samples.
    """
    seeds, texts = differences.shape
    drawn = []
    for begin in range(0, draws, CHUNK_DRAWS):
        count = min(CHUNK_DRAWS, draws - begin)
        by_seed = rng.multinomial(texts, np.full(texts, 1 / texts), size=count) @ differences.T / texts
        weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=count) / seeds - 1 / seeds
        widened = np.sqrt(seeds / max(seeds - 1, 1)) * (weights * by_seed).sum(1)
        drawn.append(by_seed.mean(1) + widened)
    return np.concatenate(drawn)


def difference(first: Sequence[Outcome], other: Sequence[Outcome], rng: np.random.Generator) -> dict:
    """Return the accuracy of ``other`` minus that of ``first``, its 95 % interval, and a two-sided p-value."""
    gains = np.array([b.hits.astype(float) - a.hits for a, b in zip(first, other, strict=True)])
    drawn = bootstrap_difference(gains, rng)
    below, above = (int((sign * drawn <= 0).sum()) for sign in (1, -1))
    p_value = min(1.0, 2 * (min(below, above) + 1) / (len(drawn) + 1))
    low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2]).tolist()
    return {
        "accuracy": float(gains.mean()),
        "interval": [low, high],
        "p_value": p_value,
        "exceeds_noise": p_value < LEVEL,
    }


def summarise(
    models: Sequence[tuple[str, str | None]], outcomes: Sequence[Sequence[Outcome]], seeds: Sequence[int]
) -> dict:
    """Return a comparison in the format of comparison.json.

    Args:
        models: name and path of each model, None for a new one.
        outcomes: [models, seeds].
        seeds: seed of each run of a model.
    """
    rows: list[dict] = []
    for (name, model), runs in zip(models, outcomes, strict=True):
        figures = {key: _spread([getattr(run, key) for run in runs]) for key in ("accuracy", "macro_f1", "seconds")}
        # The same draws for each model.
        against = difference(outcomes[0], runs, np.random.default_rng(0)) if rows else None
        rows.append({"name": name, "model": model, **figures, "difference": against})
    return {"test_examples": len(outcomes[0][0].labels), "seeds": list(seeds), "models": rows}


def _spread(values: Sequence[float]) -> dict:
    """Return the mean, the sample standard deviation (None for a single value) and the values."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": deviation, "by_seed": list(values)}
