"""`python -m bench.run [--quick] [NAME...]`: runs the benchmarks, keeps what they found, writes the tables.

Each runs in a process of its own, so that none inherits another's memory. A benchmark without its results in the end
is said, and exit code 1; how good the figures are never is: nothing here is a test.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import cast

from bench.machine import load_average, machine
from bench.report import Report, keep, write_pages

NAMES = ("probe", "sidecar", "applications", "spool", "codec", "lake")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*NAMES, []], help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="rough figures in two minutes")
    parser.add_argument("--pages", action="store_true", help="measure nothing, write the tables from the kept results")
    arguments = parser.parse_args()
    if arguments.pages:
        write_pages(NAMES)
        return 0
    if os.geteuid() != 0:
        print("bench: the probe needs root", file=sys.stderr)
        return 1
    failed = False
    for name in arguments.names or NAMES:
        began = time.monotonic()
        try:
            report, where = _run_alone(name, quick=arguments.quick)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            failed = True
            continue
        keep(report, where, quick=arguments.quick)
        print(f"{name}, {time.monotonic() - began:.0f} s")
        for figure in report.figures:
            verdict = {None: "", True: " (within its budget)", False: " (OVER ITS BUDGET)"}[figure.within]
            print(f"    {figure.what}: {figure.median:,.4g} {figure.unit}{verdict}")
        sys.stdout.flush()
    write_pages(NAMES)
    return 1 if failed else 0


def _run_alone(name: str, *, quick: bool) -> tuple[Report, dict[str, object]]:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as alone:
        return alone.submit(benchmark, name, quick).result()


def benchmark(name: str, quick: bool) -> tuple[Report, dict[str, object]]:
    """In the process of its own: the report, and the machine it was made on."""
    where = machine()
    report = cast(Report, importlib.import_module(f"bench.{name}").benchmark(quick))
    return report, where | {"load_average_after": load_average()}


if __name__ == "__main__":
    sys.exit(main())
