"""A bar that follows requests as they are answered."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from weighbridge.lab.traffic import Outcome


@contextmanager
def following(console: Console, requests: int) -> Iterator[Callable[[Outcome], None]]:
    """The bar; what it gives is called with each outcome."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("requests answered", total=requests)

        def on_done(_: Outcome) -> None:
            progress.advance(bar)

        yield on_done
