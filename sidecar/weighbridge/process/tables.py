"""Tables on a terminal."""

from rich import box
from rich.table import Table


def plain_table(title: str) -> Table:
    """A table with few lines, so that it fits into 80 columns."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
