"""`python -m tools.docs` writes every page that is made from the source; `--check` only says which ones are stale.

Exit code 0 ok, 1 when --check finds a stale page or when the source lacks a text, 2 bad usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.kernel import PROJECT_ROOT
from tools.docs.pages import PAGES, stale_pages
from tools.docs.source_text import MissingText


def main(arguments: Sequence[str] | None = None, root: Path = PROJECT_ROOT) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tools.docs", description="Pages of docs/ made from the source.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a page is stale")
    check = parser.parse_args(arguments).check
    try:
        stale = stale_pages(root)
    except MissingText as error:
        print(error, file=sys.stderr)
        return 1
    for name, text in stale.items():
        if check:
            print(f"{name} is stale: python -m tools.docs writes it", file=sys.stderr)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")
            print(f"{name} written")
    if not stale:
        print(f"{len(PAGES)} pages are what the source says")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
