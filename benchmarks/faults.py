#!/usr/bin/env python
"""Provoke faults around a run, with the commands that users run, and check how each of them ends.

    python benchmarks/faults.py                       # all faults, ten minutes on two cores
    python benchmarks/faults.py lock second_start     # topics, or names of faults
    python benchmarks/faults.py --list

Faults are two runs in one folder, damaged caches, full disks, closed terminals, signals at bad moments, and changed or
hostile inputs. A user error must end with one line and exit code 2. In all other cases, the run must end with the
weights and logs of a run without the fault. Prints a table and a line of JSON; the exit code is 1 if an outcome is
wrong.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import fault_runs

# These modules add their faults to FAULTS.
import faults_of_inputs  # noqa: F401
import faults_of_models  # noqa: F401
import faults_of_runs  # noqa: F401
from fault_runs import FAULTS, Case, Fault, Skipped, Undisturbed, Wrong

# Most characters of a cell in the table.
WIDTH = 140


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faults", nargs="*", help="topics or names of faults (default: all)")
    parser.add_argument("--list", action="store_true", help="list the faults")
    parser.add_argument("--jobs", type=int, default=2, help="faults that run concurrently")
    parser.add_argument("--folder", type=Path, help="folder that keeps the output of the runs")
    args = parser.parse_args(argv)
    chosen = choose(args.faults, parser)
    if args.list:
        print("\n".join(f"{fault.topic:<12} {fault.name:<28} {fault.title}" for fault in chosen))
        return
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Undisturbed(Path(folder) / "undisturbed")
        with ThreadPoolExecutor(args.jobs) as threads:
            rows = list(threads.map(partial(provoke, Path(folder), args.folder, undisturbed), chosen))
    sys.exit(report(rows))


def choose(names: Sequence[str], parser: argparse.ArgumentParser) -> list[Fault]:
    """Return the faults with these topics or names, or all faults if no name is given."""
    unknown = set(names) - {fault.topic for fault in FAULTS} - {fault.name for fault in FAULTS}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; --list lists the faults")
    return [fault for fault in FAULTS if not names or {fault.topic, fault.name} & set(names)]


def provoke(folder: Path, logs: Path | None, undisturbed: Undisturbed, fault: Fault) -> dict:
    """Provoke a fault and return its row of the table."""
    begin, own = time.monotonic(), folder / fault.name
    row = {"topic": fault.topic, "name": fault.name, "fault": fault.title}
    with Case(own, undisturbed, logs and logs / fault.name) as case:
        try:
            outcome, judged = fault.provoke(case), "right"
            run, line = outcome.run, outcome.line
        except Wrong as wrong:
            run, line, judged = wrong.run, wrong.run.last_words(), f"WRONG: {wrong}"
        except Skipped as reason:
            run, line, judged = None, "", f"not tried: {reason}"
        except Exception as error:  # must not stop the other faults
            run, line, judged = None, "", f"WRONG: {type(error).__name__}: {error}"
        # On exit, processes that still run, such as the page, are killed.
        code = run and run.code
    shutil.rmtree(own, ignore_errors=True)
    line = line.replace(f"{own}/", "").replace(f"{fault_runs.ROOT}/", "")
    row |= {"outcome": line, "exit code": code, "judged": judged}
    row |= {"seconds": round(time.monotonic() - begin, 1), "peak MB": run and round(run.peak)}
    print(f"{fault.name}: {judged} ({row['seconds']} s)", file=sys.stderr, flush=True)
    return row


def report(rows: list[dict]) -> bool:
    """Print the table, the count and a line of JSON; return whether any outcome is wrong."""
    cells = [("fault", "outcome", "exit code", "judged")]
    for row in rows:
        code = "-" if row["exit code"] is None else str(row["exit code"])
        cells.append((row["fault"], shorten(row["outcome"]), code, shorten(row["judged"])))
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        print(" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    tried = [row for row in rows if not row["judged"].startswith("not tried")]
    right = sum(row["judged"] == "right" for row in tried)
    print(f"{right} of {len(tried)} right")
    print(json.dumps({"right": right, "tried": len(tried), "load": os.getloadavg(), "faults": rows}))
    return right < len(tried)


def shorten(line: str) -> str:
    line = " ".join(line.split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."


if __name__ == "__main__":
    main()
