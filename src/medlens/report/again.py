"""A run's report made again, from what its folder holds."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from medlens import store
from medlens.errors import BadRun
from medlens.report import live
from medlens.report.page import render

PAGES = {  # of other commands, by what their manifests hold: where they are written
    "neurons": "neurons.write_neurons",
    "reliance": "reliance.write_reliance",
    "benchmark": "benchmark.write_benchmark",
    "prune": "pruned.write_pruned",
    "thin": "thin.write_thin",
    "probe": "probes.write_probes",
}


def make_report(run: str | Path) -> Path:
    """Write a run's `report.html` once more; return its path. Charts beside it (`charts/`) stay as they are.

    Of an unfinished study (`NAME.part`, or NAME while only that is there) the report says how far it is. Raises BadRun for what is
    no run, is damaged, is of another format, or has a page that is not made from its tables; CannotWrite.
    """
    folder = Path(run)
    part = folder if folder.name.endswith(".part") else folder.with_name(f"{folder.name}.part")
    if part.is_dir() and (folder == part or not folder.exists()):
        return live.write(part, refresh=0)
    opened = store.open_run(folder)
    store.check_place(folder, "RUN")
    if kind := next((kind for kind in PAGES if kind in opened.manifest), None):
        module, _, write = PAGES[kind].partition(".")
        getattr(import_module(f"medlens.report.{module}"), write)(folder)
        return opened.report
    if "forecast" not in opened.manifest:
        raise BadRun(f"{folder} is no study, and its page is not made from tables alone: repeat the command that made it")
    fresh = folder / "report.html.new"
    store.write(fresh, render(opened))
    fresh.replace(opened.report)
    return opened.report
