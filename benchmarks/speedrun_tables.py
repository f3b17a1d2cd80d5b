"""Choose the numbers of steps of speedrun.py, and make its tables."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from speedrun_sides import STOCK, TECHNIQUES, Side, sides
from tabulate import tabulate

# Factor between the numbers of steps that are tried until one reaches the target and one does not.
GROWTH = 1.4
# The search ends at most this factor above the interpolated number of steps.
NEAR = 1.05
# Factor on the interpolated number of steps, to reach the target at the first try.
MARGIN = 1.02
RATE = "learning_rate"


class Run(NamedTuple):
    """Hold a complete run.

    Attributes:
        side: name of the side that it was started for.
        script: that trained.
        flags: of the script, which the size does not give.
        config: as the flags.
        steps: number of steps.
        seed: of weights, order, masks and dropout.
        loss: held-out masked loss at the end.
        seconds: time of the training steps.
    """

    side: str
    script: str
    flags: dict[str, str]
    config: dict[str, str]
    steps: int
    seed: int
    loss: float
    seconds: float

    @property
    def rates(self) -> dict[str, str]:
        """Return the flags that are learning rates."""
        return {name: value for name, value in self.flags.items() if name.endswith(RATE)}


def next_steps(losses: Mapping[int, float], target: float) -> int | None:
    """Return the number of steps to try next, None if the shortest that reaches the target is known.

    Args:
        losses: final loss by the number of steps tried; not empty.
        target: the loss to reach.
    """
    reached = min((steps for steps, loss in losses.items() if loss <= target), default=None)
    missed = max(
        (steps for steps, loss in losses.items() if loss > target and steps < (reached or math.inf)), default=0
    )
    if reached is None:
        return math.ceil(GROWTH * missed)
    if not missed:
        return int(reached / GROWTH) or None
    # The loss is nearly linear in the logarithm of the steps.
    share = (losses[missed] - target) / (losses[missed] - losses[reached])
    estimate = missed * (reached / missed) ** share
    steps = math.ceil(MARGIN * estimate)
    return steps if reached > NEAR * estimate and steps < reached else None


def group_by_setting(runs: Iterable[Run]) -> list[list[Run]]:
    """Group runs that differ only in their seeds, in the order of the first runs."""
    groups: list[list[Run]] = []
    for run in runs:
        group = next((each for each in groups if _setting(each[0]) == _setting(run)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    return groups


def _setting(run: Run) -> tuple:
    return run.script, run.flags, run.config, run.steps


def loss_of(group: Sequence[Run]) -> float:
    return statistics.median(run.loss for run in group)


def seconds_of(group: Sequence[Run]) -> float:
    return statistics.median(run.seconds for run in group)


def best_of(groups: Sequence[list[Run]], side: Side, target: float, seeds: int) -> list[Run] | None:
    """Return the fastest setting of a side that reaches the target, else the one with the lowest loss, if any.

    Args:
        groups: the runs of all settings.
        side: the side; its settings differ in learning rates and steps.
        target: the loss to reach.
        seeds: a setting counts if it has run with at least as many.
    """
    identity = side.script, hide_rates(side.flags), side.config
    own = [
        group
        for group in groups
        if len(group) >= seeds and (group[0].script, hide_rates(group[0].flags), group[0].config) == identity
    ]
    reached = [group for group in own if loss_of(group) <= target]
    return min(reached, key=seconds_of) if reached else min(own, key=loss_of, default=None)


def hide_rates(flags: dict[str, str]) -> dict[str, str]:
    """Return flags without the values of learning rates: a side has its own."""
    return {name: "..." if name.endswith(RATE) else value for name, value in flags.items()}


def format_techniques(runs: Sequence[Run], target: float, seeds: int) -> str:
    """Return a Markdown table of the seconds to the target: stock, and each technique alone and on top."""
    groups, everything = group_by_setting(runs), sides()
    found = {name: best_of(groups, side, target, seeds) for name, side in everything.items()}
    stock = min((seconds_of(found[name]) for name in STOCK if has_reached(found[name], target)), default=None)

    def cells(name: str) -> list[str]:
        group = found.get(name)
        if group is None:
            return ["", ""]
        if not has_reached(group, target):
            return [f"not reached: {loss_of(group):.3f} after {seconds_of(group):.0f}", ""]
        return [f"{seconds_of(group):.0f}", "" if stock is None else f"{seconds_of(group) / stock:.2f}"]

    rows = [[name, describe(everything[name].flags, {}), *cells(name), "", ""] for name in STOCK if found[name]]
    for name, technique in TECHNIQUES.items():
        alone = name if technique.alone is None else f"{name}-alone"
        if found[name] or found[alone]:
            rows.append([name, describe(technique.flags, technique.config), *cells(alone), *cells(name)])
    return tabulate(
        rows,
        ["technique", "settings", "alone, s", "of stock", "on top, s", "of stock"],
        "github",
        disable_numparse=True,
    )


def has_reached(group: Sequence[Run] | None, target: float) -> bool:
    return group is not None and loss_of(group) <= target


def describe(flags: dict[str, str], config: dict[str, str]) -> str:
    """Return flags and config as one types them, without the peak learning rate that all sides have."""
    overrides = ",".join(f"{name}={value}" for name, value in config.items())
    given = hide_rates(flags) | ({"config_overrides": overrides} if overrides else {})
    return " ".join(f"`--{name} {value}`" for name, value in given.items() if name != RATE)


def format_settings(runs: Sequence[Run], target: float) -> str:
    """Return a Markdown table of all settings that have run."""
    rows = [
        [
            group[0].side,
            ", ".join(group[0].rates.values()),
            group[0].steps,
            len(group),
            f"{loss_of(group):.3f} ({min(run.loss for run in group):.3f} to {max(run.loss for run in group):.3f})",
            f"{seconds_of(group):.0f}",
            f"{seconds_of(group) / group[0].steps:.3f}",
            "yes" if has_reached(group, target) else "no",
        ]
        for group in group_by_setting(runs)
    ]
    headers = ["side", "peak rate", "steps", "seeds", "held-out loss", "seconds", "s per step", "reached"]
    return tabulate(rows, headers, "github", disable_numparse=True)
