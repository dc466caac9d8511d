"""The generated parts of the docs are what the code says."""

from pathlib import Path

from weighbridge.cli.reference import MARKED, PARTS, filled


def test_the_pages_are_up_to_date(repository: Path) -> None:
    shown = set()
    for page in sorted((repository / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        assert filled(text) == text, f"{page.name}: run: make docs"
        shown |= {found["name"] for found in MARKED.finditer(text)}
    assert shown == set(PARTS)
