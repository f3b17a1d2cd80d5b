"""The table of a comparison, for the terminal."""


def tabulate(comparison: dict) -> str:
    """The comparison as a table for the terminal, in percent and points."""
    header = ("Model", "Accuracy", "Macro-F1", f"Difference to {comparison['models'][0]['name']}", "Time")
    rows = [header, *map(row_of, comparison["models"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  " + "   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def row_of(model: dict) -> tuple[str, ...]:
    return (
        model["name"],
        percent(model["accuracy"]),
        percent(model["macro_f1"]),
        "" if model["difference"] is None else verdict(model["difference"], len(model["accuracy"]["by_seed"])),
        f"{model['seconds']['mean']:,.0f} s",
    )


def percent(figure: dict) -> str:
    return f"{figure['mean']:.1%}" + ("" if figure["std"] is None else f" ± {100 * figure['std']:.1f}")


def verdict(difference: dict, seeds: int) -> str:
    """In words: how large, within which limits, and whether it exceeds the noise; one seed does not tell all of it."""
    low, high = (f"{100 * bound:+.1f}" for bound in difference["interval"])
    exceeds = "exceeds the noise" if difference["exceeds_noise"] else "no difference beyond noise"
    exceeds += " of the texts; of seeds, one tells nothing" if seeds == 1 else ""
    return f"{100 * difference['accuracy']:+.1f} ({low} to {high}), p {difference['p_value']:.2g}: {exceeds}"
