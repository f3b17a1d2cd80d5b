"""Mix sources in given shares of the tokens: an epoch is one pass over the first, and takes a part of the others.

The others are read pass after pass, each pass in a new random order. An epoch goes on where the epoch before it ended,
which depends on the epoch's number only, so that a run can be resumed in any epoch.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from cloze.data.samplers import Examples

logger = logging.getLogger(__name__)

# Returns the examples of a pass over a source; passes may differ, for example in their pairs.
DrawPass = Callable[[int], Examples]


class Mixed:
    """Join chosen examples of several sources; an example's number is its position, so it is unique in an epoch.

    Args:
        parts: examples, and the numbers of those chosen, [chosen].
    """

    def __init__(self, parts: Sequence[tuple[Examples, np.ndarray]]):
        self.parts = parts
        self.lengths = np.concatenate([examples.lengths[numbers] for examples, numbers in parts])
        self.ends = np.cumsum([len(numbers) for _, numbers in parts])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> dict:
        part = int(np.searchsorted(self.ends, number, side="right"))
        examples, numbers = self.parts[part]
        chosen = numbers[number - self.ends[part] + len(numbers)]
        return examples[int(chosen)] | {"example": int(number)}


class Mixture:
    """Draw the examples of an epoch from several sources.

    Args:
        sources: what draws a pass over each source, by name; the first one defines the epoch.
        shares: of each source in the tokens, by name; None takes all sources whole in each epoch.
        seed: of the order of the passes.
        limit: use only the first ``limit`` examples of the first source.

    Attributes:
        totals: tokens in the first pass over each source, by name.
        needs: tokens in an epoch from each source, by name. Pairs differ a little in length from pass to pass, and so
            do their epochs.
    """

    def __init__(
        self, sources: Mapping[str, DrawPass], shares: Mapping[str, float] | None, seed: int, limit: int | None = None
    ):
        self.sources, self.seed, self.limit = dict(sources), seed, limit
        # The passes of the most recent epoch, and their orders, by name of the source and number of the pass.
        self.orders: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
        self.passes = {(name, 0): draw(0) for name, draw in self.sources.items()}
        self.totals = {name: int(examples.lengths.sum()) for (name, _), examples in self.passes.items()}
        self.needs = dict(self.totals)
        first = next(iter(self.sources))
        self.needs[first] = int(self.passes[first, 0].lengths[:limit].sum())
        if shares is not None:
            tokens = self.needs[first]
            self.needs = {name: round(tokens * shares[name] / shares[first]) for name in self.sources}
        for name, need in self.needs.items():
            if not need:
                logger.warning("%s has no token in an epoch: give it a larger share in --mixture, or drop it", name)
            if need > self.totals[name]:
                logger.warning(
                    "%s is repeated %.1f times in an epoch, because it has fewer tokens than its share needs: give it "
                    "more text, or a smaller share in --mixture",
                    name,
                    need / self.totals[name],
                )

    def __call__(self, epoch: int) -> Mixed:
        """Return the examples of an epoch; the first source comes first."""
        first, *others = self.sources
        wanted = [(first, epoch, 0, 1)] + [part for name in others for part in self._parts_of(name, epoch)]
        keys = dict.fromkeys((name, number) for name, number, _, _ in wanted)
        before = self.passes
        self.passes = {key: before[key] if key in before else self.sources[key[0]](key[1]) for key in keys}
        self.orders = {key: order for key, order in self.orders.items() if key in keys}
        whole = self.passes[first, epoch]
        parts = [(whole, np.arange(len(whole))[: self.limit])]
        for name, number, begin, end in wanted[1:]:
            parts.append((self.passes[name, number], self._choose(name, number, begin, end)))
        return Mixed(parts)

    def _parts_of(self, name: str, epoch: int) -> list[tuple[str, int, int, int]]:
        """Return the passes over a source that an epoch needs, with the begin and the end of the part that it takes.

        Begin and end are positions in the tokens of the first pass.
        """
        total, need = self.totals[name], self.needs[name]
        begin, end = epoch * need, (epoch + 1) * need
        bounds = [begin, *range((begin // total + 1) * total, end, total), end]
        return [(name, at // total, at % total, at % total + stop - at) for at, stop in pairwise(bounds) if stop > at]

    def _choose(self, name: str, number: int, begin: int, end: int) -> np.ndarray:
        """Return the numbers of the examples of a pass that begin within a part of it."""
        total = self.totals[name]
        if end - begin == total:
            return np.arange(len(self.passes[name, number]))
        order, begins = self._order_of(name, number)
        # Passes differ a little in length: the same fraction of each. In Python's integers, which do not overflow.
        bounds = [-(-position * int(begins[-1]) // total) for position in (begin, end)]
        return order[slice(*np.searchsorted(begins[:-1], bounds))]

    def _order_of(self, name: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the order of the examples of a pass, [examples], and where each begins, then the end of the last."""
        if (name, number) not in self.orders:
            lengths = self.passes[name, number].lengths
            # Draws of batches and pairs have three numbers; the last one sets these apart.
            rng = np.random.default_rng((self.seed, number, list(self.sources).index(name), 1))
            order = rng.permutation(len(lengths))
            self.orders[name, number] = order, np.concatenate([[0], np.cumsum(lengths[order])])
        return self.orders[name, number]

    def describe(self) -> str:
        """Return the share, the tokens and the passes of each source in an epoch."""
        whole = sum(self.needs.values())
        return ", ".join(
            f"{name} {need / whole:.1%} of the tokens ({need:,} in an epoch, {need / self.totals[name]:.2f} passes)"
            for name, need in self.needs.items()
        )
