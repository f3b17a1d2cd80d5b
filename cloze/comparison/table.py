"""Format a comparison as a table for the terminal."""

from textwrap import indent

from tabulate import tabulate


def format_comparison(comparison: dict) -> str:
    """Format the result of ``bootstrap.summarise``, in percent and percentage points."""
    header = ("Model", "Accuracy", "Macro-F1", f"Difference to {comparison['models'][0]['name']}", "Time")
    rows = [header, *map(_row_of, comparison["models"])]
    return indent(tabulate(rows, tablefmt="plain", disable_numparse=True), "  ")


def _row_of(model: dict) -> tuple[str, ...]:
    return (
        model["name"],
        _percent(model["accuracy"]),
        _percent(model["macro_f1"]),
        "" if model["difference"] is None else _verdict(model["difference"], len(model["accuracy"]["by_seed"])),
        f"{model['seconds']['mean']:,.0f} s",
    )


def _percent(figure: dict) -> str:
    return f"{figure['mean']:.1%}" + ("" if figure["std"] is None else f" ± {100 * figure['std']:.1f}")


def _verdict(difference: dict, seeds: int) -> str:
    """Format a difference, its 95 % interval and p-value, and whether it exceeds the noise."""
    low, high = (f"{100 * bound:+.1f}" for bound in difference["interval"])
    exceeds = "exceeds the noise" if difference["exceeds_noise"] else "no difference beyond noise"
    exceeds += " of the texts (the noise of seeds is unknown with one seed)" if seeds == 1 else ""
    return f"{100 * difference['accuracy']:+.1f} ({low} to {high}), p {difference['p_value']:.2g}: {exceeds}"
