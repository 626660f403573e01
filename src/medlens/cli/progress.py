"""Progress on stderr: one bar a phase, with the time left, and the price before the work begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from medlens import Forecast


def price(forecast: Forecast) -> str:
    """A forecast in one line."""
    return (
        f"plan: {forecast.samples} samples on {forecast.images} images, {forecast.tokens:,} tokens to walk "
        f"(of {forecast.tokens_unpacked:,}); about {_duration(forecast.seconds)}, {forecast.memory / 2**30:.1f} GiB of memory, "
        f"{forecast.disk / 2**20:.0f} MB of disk"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
