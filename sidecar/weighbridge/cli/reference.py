"""The generated parts of the docs: each between two markers of a page, kept equal by a test."""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from weighbridge.admin import catalogue
from weighbridge.config import reference as config_reference
from weighbridge.config import tuning

# By the name in the markers of a page: `<!-- generated: NAME -->` … `<!-- end -->`.
PARTS: Mapping[str, Callable[[], str]] = {
    "configuration": config_reference.pages,
    "metrics": catalogue.table,
    "runtime_keys": tuning.table,
}
MARKED = re.compile(r"(<!-- generated: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """A page with its generated parts as they should be."""
    return MARKED.sub(lambda found: found[1] + PARTS[found["name"]]() + found[3], page)


def main(directory: Path) -> None:
    """Rewrites the pages of a directory whose generated parts have changed."""
    for page in sorted(directory.glob("*.md")):
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            page.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
