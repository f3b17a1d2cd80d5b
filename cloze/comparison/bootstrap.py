"""Estimate whether one classifier is better than another beyond the noise of texts and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Bootstrap samples, and how many are drawn at a time.
DRAWS, CHUNK_DRAWS = 10_000, 500
# A difference that chance makes less often exceeds the noise.
LEVEL = 0.05


@dataclass(frozen=True)
class Outcome:
    """Hold the results of a run: metrics, seconds of training, each text's label and predicted one, and the digests
    of the texts that it was trained and evaluated on."""

    accuracy: float
    macro_f1: float
    seconds: float
    labels: list[str]
    predictions: list[str]
    digests: Sequence[str] = ()

    @property
    def hits(self) -> np.ndarray:
        """Return whether each text's label was predicted, bool [texts]."""
        return np.array(self.labels) == np.array(self.predictions)


def bootstrap_difference(differences: np.ndarray, rng: np.random.Generator, draws: int = DRAWS) -> np.ndarray:
    """Return mean differences as other texts and other seeds might have given them, [draws].

    Both texts and seeds are drawn with replacement, as in the Multi-Bootstrap (Sellam et al., 2022) for paired seeds: a
    test over texts alone takes a lucky seed for a better model. What seeds add is widened by sqrt(n / (n - 1)), as the
    spread of n drawn out of n falls short by that, much where n is 3.

    Args:
        differences: of each seed and text, what the second model scored more than the first, [seeds, texts].
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
    """Return the other's accuracy less the first's, its 95 % interval, and the p-value of a two-sided test."""
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


def summarise(models: Sequence[tuple[str, str]], outcomes: Sequence[Sequence[Outcome]], seeds: Sequence[int]) -> dict:
    """Return a comparison as comparison.json has it.

    Args:
        models: name and path of each.
        outcomes: [models, seeds].
    """
    rows = []
    for (name, model), runs in zip(models, outcomes, strict=True):
        figures = {key: _spread([getattr(run, key) for run in runs]) for key in ("accuracy", "macro_f1", "seconds")}
        # Of the same draws for each model.
        against = difference(outcomes[0], runs, np.random.default_rng(0)) if rows else None
        rows.append({"name": name, "model": model, **figures, "difference": against})
    return {"test_examples": len(outcomes[0][0].labels), "seeds": list(seeds), "models": rows}


def _spread(values: Sequence[float]) -> dict:
    """Return mean, standard deviation (of a sample; None of one value) and the values."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": deviation, "by_seed": list(values)}
