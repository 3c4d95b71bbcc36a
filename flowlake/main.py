"""The `flowlake` command: finds the subcommand, runs it, and turns every way of failing into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong use; 130 interrupted, 141 the reader of our output went away (as shells count it).
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from flowlake.config import known_configs
from settings.errors import FlowlakeError

INTERRUPTED = 130
OUTPUT_CLOSED = 141

# Command -> (module with add_arguments(parser) and run(args), help). A module is imported only when its command is the
# one asked for: the sidecar's process never loads what the lake needs.
COMMANDS = {
    "up": ("flowlake.up", "watch this host into a local lake: sidecar and enricher in one process tree"),
    "sidecar": ("sidecar.main", "the process on each host: probe, identity, spool"),
    "enricher": ("enricher.main", "the joining process: spool to lake, exactly once"),
    "query": ("flowlake.query", "ask the lake: a question's name, or SQL; alone it lists the questions"),
    "tail": ("flowlake.tail", "live records of this host"),
    "doctor": ("flowlake.doctor", "what this host can do, and the state of a running pipeline"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit code; argparse itself exits with 2 on wrong use."""
    words = list(sys.argv[1:] if argv is None else argv)
    verbose = "--verbose" in words
    try:
        args = _parser(words).parse_args(words)
        args.known = known_configs()
        code: int = importlib.import_module(COMMANDS[args.command][0]).run(args)
        sys.stdout.flush()
    except FlowlakeError as error:
        _complain(str(error), verbose)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python would complain once more when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OUTPUT_CLOSED
    except Exception as error:
        words_of_it = " ".join(str(error).split())
        hint = "" if verbose else " (run with --verbose for the traceback)"
        _complain(f"unexpected {type(error).__name__}: {words_of_it}{hint}", verbose)
        return FlowlakeError.exit_code
    return code


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the whole command; only the subcommand among `words` has its own arguments filled in."""
    parser = argparse.ArgumentParser(
        prog="flowlake",
        description="Which workload talks to which, is it working, is it fast: TCP flows as Parquet.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"flowlake {_version()}")
    parser.add_argument("--verbose", action="store_true", help="add the traceback to errors")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    asked = next((word for word in words if not word.startswith("-")), None)
    for name, (module, help_) in COMMANDS.items():
        command = commands.add_parser(name, help=help_, description=help_, allow_abbrev=False)
        # Also after the command, where people add it when something went wrong.
        command.add_argument(
            "--verbose", action="store_true", default=argparse.SUPPRESS, help="add the traceback to errors"
        )
        if name == asked:
            importlib.import_module(module).add_arguments(command)
    return parser


def _complain(line: str, verbose: bool) -> None:
    if verbose:
        traceback.print_exc()
    print(f"flowlake: {line}", file=sys.stderr)


def _version() -> str:
    try:
        return version("flowlake")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
