"""Print the results of gpu.sh as tables."""

from collections.abc import Iterable

# Columns of the table, with their formats.
CHECKS = {"check": "", "loss": ".2g", "gradient norm": ".2g", "gradient": ".2g", "result": ""}
RUNS = {"command": "", "exit code": "", "seconds": ".1f", "last loss": ".4f", "tokens/s": ",.0f"}
TIMES = {"side": "", "learning rate": "", "steps": ",", "held-out loss": ".3f", "seconds": ".1f"}
SPEEDS = {
    "work": "",
    "side": "",
    "compiled": "",
    "tokens per batch": ",",
    "tokens/s": ",.0f",
    "slowest": ",.0f",
    "fastest": ",.0f",
    "non-padding": ".1%",
    "MFU": ".1%",
    "peak GB": ".1f",
    "warm-up s": ".1f",
    "speedup": ".2f",
}


def print_tables(lines: list[dict]) -> None:
    """Print a table for each kind of result, and what was not measured."""
    print_rows("Checks", CHECKS, [check_row(line) for line in lines if "check" in line])
    print_rows("Commands", RUNS, [line for line in lines if "command" in line])
    print_rows("Speedrun", TIMES, [line for line in lines if "held-out loss" in line])
    print_rows("Training, medians of three turns", SPEEDS, speed_rows(lines))
    for line in lines:
        if "skipped" in line:
            print(f"Not measured: {line['part']}, {line['work']}, {line['side']}: {line['skipped']}")


def failures_of(lines: list[dict], parts: Iterable[str]) -> list[str]:
    """Return descriptions of all failures."""
    failures = []
    for part in parts:
        own = [line for line in lines if line["part"] == part]
        ends = [line for line in own if "status" in line]
        if not ends:
            failures.append(f"{part} did not finish")
        elif ends[0]["status"] != 0:
            end = "was stopped at its limit" if ends[0]["seconds"] >= ends[0]["limit"] else "failed"
            failures.append(f"{part} {end}, after {ends[0]['seconds']} s, with exit code {ends[0]['status']}")
        elif len(own) == 1:
            failures.append(f"{part} has no results")
    for line in lines:
        if line.get("ok") is False or "failed" in line:
            name = line.get("check") or line.get("command") or f"{line['work']}, {line['side']}"
            failures.append(f"{line['part']}, {name}: {line.get('error') or line.get('failed') or 'check failed'}")
    return failures


def check_row(line: dict) -> dict:
    names = {"gradient norm": line.get("gradient_norm"), "result": line.get("judged", "ok" if line["ok"] else "FAILED")}
    return line | names


def speed_rows(lines: list[dict]) -> list[dict]:
    """Return a row for each measurement, with the speedup of ours over stock."""
    rows = []
    for line in lines:
        if "figures" not in line:
            continue
        names = {"compiled": "yes" if line["compiled"] else "no", "tokens per batch": line["tokens"]}
        rows.append(line | line["figures"] | names)
    ours = {(row["work"], row["compiled"]): row["tokens/s"] for row in rows if row["side"] == "ours"}
    for row in rows:
        speed = ours.get((row["work"], row["compiled"]))
        row["speedup"] = speed / row["tokens/s"] if speed and row["side"] == "stock" else None
    return rows


def print_rows(title: str, columns: dict[str, str], rows: list[dict]) -> None:
    """Print a table, with a dash for missing values."""
    print(f"\n{title}")
    cells = [list(columns)]
    for row in rows:
        values = {name: row.get(name) for name in columns}
        cells.append(["-" if value is None else format(value, columns[name]) for name, value in values.items()])
    widths = [max(len(row[number].strip()) for row in cells) for number in range(len(columns))]
    for row in cells:
        print(" | ".join(cell.strip().ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
