"""What is shown: one bar a phase on stderr, with the time left; the price before the work begins; tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    import polars as pl

    from medlens import Forecast


def price(forecast: Forecast) -> str:
    """A forecast in one line."""
    return (
        f"plan: {forecast.samples} samples on {forecast.images} images, {forecast.tokens:,} tokens to walk "
        f"(of {forecast.tokens_unpacked:,}); about {duration(forecast.seconds)}, {forecast.memory / 2**30:.1f} GiB of memory, "
        f"{forecast.disk / 2**20:.0f} MB of disk"
    )


def duration(seconds: float) -> str:
    """Seconds, as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def window_of(given: str | None) -> tuple[float, float] | None:
    """CENTRE,WIDTH as numbers. Raises BadInput."""
    from medlens.errors import BadInput

    if given is None:
        return None
    try:
        centre, width = map(float, given.split(","))
    except ValueError as e:
        raise BadInput(f"--window is CENTRE,WIDTH, such as 40,400; got {given!r}") from e
    return centre, width


def table(rows: pl.DataFrame, title: str, width: int = 100) -> None:
    """Print a table to stdout: numbers to three decimals, on the right."""
    from rich.table import Table

    shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name, kind in rows.schema.items():
        shown.add_column(name, justify="right" if kind.is_numeric() else "left")
    for row in rows.iter_rows():
        shown.add_row(*("–" if v is None else f"{v:.3f}" if isinstance(v, float) else str(v) for v in row))
    Console(width=max(width, len(title))).print("", shown, sep="\n", highlight=False)


class Bars:
    """A `Watcher` that draws bars. `worked`: whether there was anything to do at all."""

    def __init__(self) -> None:
        self.worked = False
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
            TimeRemainingColumn(), console=Console(stderr=True),
        )  # fmt: skip
        self._task = None

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def planned(self, forecast: Forecast) -> None:
        self.worked = True
        self._bars.console.print(price(forecast), highlight=False)

    def begin(self, phase: str, steps: int) -> None:
        self._task = self._bars.add_task(phase, total=steps)

    def tick(self) -> None:
        if self._task is not None:
            self._bars.advance(self._task)
