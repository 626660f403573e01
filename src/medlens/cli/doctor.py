"""`medlens doctor [MODEL]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from medlens.cli import options
from medlens.cli.result import say

if TYPE_CHECKING:
    from medlens._doctor import Examination


def command(
    model: Annotated[str | None, typer.Argument(help="`phantom` or a model folder; without one, only the machine.")] = None,
    device: options.Device = "cpu",
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Say what this machine and this model can do: memory, disk, speed, run mode, how long the published study would take."""
    import medlens

    found = medlens.doctor(model, device)
    if as_json:
        say(found.as_dict())
        return
    print("\n".join(_lines(found)))


def _lines(found: Examination) -> list[str]:
    from medlens.cli.progress import duration

    free = f"{found.memory / 2**30:.1f} GiB of memory, {found.disk / 2**30:.1f} GiB of disk"
    lines = [
        f"machine    {found.cores} cores, {found.device}; free: {free}",
        "speed      "
        + ", ".join(f"{dtype} {speed:.0f}" if speed >= 10 else f"{dtype} {speed:.1f}" for dtype, speed in found.speed.items())
        + f" GFLOP/s; memory is read at {found.bandwidth / 1e9:.0f} GB/s",
    ]
    slow = [dtype for dtype, speed in found.speed.items() if speed < found.speed["float32"] / 3]
    if slow:
        lines.append(f"           {' and '.join(slow)} would be slower than float32 here: keep --dtype float32")
    lines += [f"extra      {what}: {there}" for what, there in found.extras.items()]
    if found.model:
        facts = found.model
        lines.append(
            f"model      {facts.name} ({facts.family}): {facts.blocks} blocks, {facts.width} wide, {facts.parameters:,} "
            f"parameters; {facts.disk / 2**30:.2f} GiB of files, {facts.memory / 2**30:.2f} GiB in float32"
        )
        lines += [f"tower      {facts.tower}"] if facts.tower else []
        lines += [f"missing    {line}" for line in facts.missing]
    lines.append(f"mode       {found.mode}")
    if found.walk_seconds is not None and found.answer_seconds is not None:
        lines.append(
            f"published  193 questions on 50 images: about {duration(found.walk_seconds)} to walk, and "
            f"{duration(found.answer_seconds)} to write the answers (given ones cost nothing: --answers given)"
        )
    return lines
