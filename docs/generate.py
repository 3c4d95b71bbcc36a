"""The pages of docs/ that are made from code: `python -m docs.generate` writes them, `--check` fails on a stale one."""

from __future__ import annotations

import sys
from pathlib import Path

from flowlake.config import known_configs
from lake.questions import markdown as questions_page
from schemas.reference import reference as schema_page
from settings import settings_reference

DOCS = Path(__file__).parent
SETTINGS_HEAD = """# Settings

Flags over environment over a TOML file (`--config FILE` or `FLOWLAKE_CONFIG`) over defaults. A name that is not
listed here is an error that names the nearest right one. An empty value is a value: no default replaces it.

`flowlake up` has better defaults for one host: `settle_seconds` 2, `range_seconds` 10, and the spool in
`<lake>/_spool`. `flowlake tail` and `flowlake doctor` look there, too, if it exists and no other spool was named.

Made by `make docs` from the declarations in `*/config.py`: edit those.

"""


def pages() -> dict[str, str]:
    """Text of every generated page, by file name."""
    return {
        "schema.md": schema_page(),
        "questions.md": questions_page(),
        "settings.md": SETTINGS_HEAD + settings_reference(known_configs()),
    }


def main(arguments: list[str]) -> int:
    """Exit code: 1 where a page is stale."""
    stale = {name: text for name, text in pages().items() if not _is(DOCS / name, text)}
    if arguments == ["--check"]:
        for name in stale:
            print(f"docs/{name} is stale: run make docs", file=sys.stderr)
        return 1 if stale else 0
    for name, text in stale.items():
        (DOCS / name).write_text(text, encoding="utf-8")
    return 0


def _is(page: Path, text: str) -> bool:
    return page.exists() and page.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
