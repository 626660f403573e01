"""The figures of the other kinds of run: neurons, reliance, probes, the benchmark of maps, and the maps of one sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from medlens import store
from medlens._figures.figure import Figure, with_axis
from medlens.picture import within
from medlens.report import benchmark, file_name, probes
from medlens.report.confidence import POINTS, abstaining_chart, reliability_chart
from medlens.report.consistency import consistency_chart
from medlens.report.flow import COLOURS, flow_charts
from medlens.report.neurons import dose_chart, head_maps

DOSE = ("concept", "word", "units", "change", "value", "low", "high", "random", "random_most", "draws", "p", "images")
OVER_IMAGES = "Bands and bars: 95 % jackknife intervals, leaving out whole images (patients, where the data name them)"
GAP = ["modality_gap", "modality_gap_floor"]
PARTS = {"share": "share of its attention that goes to the image", "patch_in": "log-odds restored"}


def of_neurons(run: store.Run) -> Iterator[Figure]:
    """Of each word the dose-response, and its heads where they were looked at."""
    for number, concept in enumerate(run.manifest["neurons"]["concepts"]):
        effects = run.effects.filter(pl.col("concept") == (word := concept["word"]))
        rows = effects.filter(
            pl.col("of").is_in(["top", "dose"]), pl.col("change") == "zero", pl.col("value").is_not_null()
        ).sort("units")  # fmt: skip
        if rows.height:
            yield Figure(
                f"dose-{number}", f"“{word}”: units set to zero", {"": dose_chart(effects)}, rows.select(DOSE),
                "Blue: the change of the word's log-odds on test images when so many of its units, the best first, are set to "
                "zero. Grey: as many units of the same layers drawn at random, their mean; dashed, the draw that does most.",
                "Schwettmann et al. 2023; Pan et al. 2024", OVER_IMAGES,
            )  # fmt: skip
        heads = run.heads.filter(pl.col("concept") == word)
        if heads.height:
            panels = dict(zip(PARTS.values(), head_maps(heads)["hconcat"], strict=True))
            drawn = [name for name in heads.columns if name.startswith(tuple(PARTS))]
            yield Figure(
                f"heads-{number}", f"“{word}”: attention heads", panels, heads.select("concept", "layer", "head", *drawn, "images"),
                "One cell a head. Left: how much of its attention goes to image tokens, from the token that predicts. Right: the "
                "log-odds that come back when it alone is as with the right image.",
                "Vig et al. 2020; Meng et al. 2022", OVER_IMAGES,
            )  # fmt: skip


def of_reliance(run: store.Run) -> Iterator[Figure]:
    """Consistency, calibration, abstaining, and the way of the image through the blocks: those that the run has."""
    kinds = run.consistency.filter(
        pl.col("question_type") == "all", pl.col("kind") != "any", pl.col("contradicted").is_not_null()
    )  # fmt: skip
    if kinds.height:
        yield Figure(
            "consistency", "Answers that contradict themselves", {"": consistency_chart(run.consistency)}, kinds,
            "The share of the model's own answers that it contradicts when it is asked again after a change that leaves the truth "
            "as it was, or turns it in a known way.",
            "", OVER_IMAGES,
        )  # fmt: skip
    bins = run.calibration.filter(pl.col("group") == "all", pl.col("measure") == "bin")
    if bins.height:
        yield Figure(
            "reliability", "How sure, and how often right", {"": reliability_chart(run.calibration)}, bins,
            "Answers in bins of equal mass by the probability that the model gives them; on the diagonal it would be as sure as it "
            "is right.",
            "Guo et al. 2017; Kumar et al. 2019", OVER_IMAGES,
        )  # fmt: skip
    known = run.confidence.filter(
        pl.col("value").is_not_null(), pl.col("curve").is_in(["random", "confidence", *POINTS])
    ).sort("coverage")  # fmt: skip
    if known.height:
        yield Figure(
            "abstaining", "What abstaining buys", {"": abstaining_chart(run.confidence)}, known,
            "The accuracy of the answers that are given, against the share that is given. Blue: the least sure are withheld first; "
            "dashed grey: as many withheld at random; marks: answers withheld by the gate and by consistency.",
            "El-Yaniv and Wiener 2010", OVER_IMAGES,
        )  # fmt: skip
    if run.flow.height:
        yield _flow(run.flow)


def _flow(flow: pl.DataFrame) -> Figure:
    """Windows that slide, without those that are clipped at the model's end."""
    sliding = flow.filter(pl.col("end") - pl.col("begin") < pl.col("end").max(), pl.col("path").is_in(list(COLOURS)))
    rows = sliding.filter(pl.col("begin") == pl.col("begin").min().over("path", "end"))
    panels = {name: with_axis(chart, "log-odds") for name, chart in flow_charts(flow).items()}
    return Figure(
        "flow", "Attention blocked", panels, rows,
        "What blocking attention along a path costs the answers, in a window of blocks that stands at its last one. Right: how "
        "much of it is the image's own, and would not be lost on another image.",
        "Geva et al. 2023; Basu et al. 2024", OVER_IMAGES,
    )  # fmt: skip


def of_probes(run: store.Run) -> Iterator[Figure]:
    """Accuracy through tower and decoder, the gap between the modalities, the tower's geometry."""
    rows = run.rows
    own = rows.filter(
        pl.col("measure").is_in(["probe_accuracy", "probe_control", "probe_majority"]), pl.col("value").is_not_nan()
    )  # fmt: skip
    yield Figure(
        "probe", "What can be read off the states", {"": probes.probe_chart(run)}, own,
        "Accuracy on held-out images of a linear probe at every state of the vision tower, then of the decoder. Grey: the same "
        "with labels shuffled (the control task); dotted: the commonest label always.",
        "Alain and Bengio 2017; Hewitt and Liang 2019", "Bands: 95 % intervals over images; the grey one: shuffled labels",
    )  # fmt: skip
    gap = _measured(rows, GAP, "image and text")
    if gap.height:
        yield Figure(
            "modality-gap", "The gap between image and text",
            {"": with_axis(probes.curves_chart(rows, GAP, "image and text", "state of the decoder"), "modality gap")}, gap,
            "How far the means of image tokens and of text tokens are apart at each state; grey: of the "
            "same tokens, divided at random.",
            "Liang et al. 2022", OVER_IMAGES,
        )  # fmt: skip
    for name, said in probes.measured_geometry(rows).items():
        chart = with_axis(probes.curves_chart(rows, [name], "tower", probes.axis_of(name)), said)
        meaning = f"{said[0].upper()}{said[1:]}, layer by layer of the vision tower."
        own = _measured(rows, [name], "tower")
        yield Figure(f"tower-{name}", f"The vision tower: {said}", {"": chart}, own, meaning, "", OVER_IMAGES)


def _measured(rows: pl.DataFrame, measures: list[str], tokens: str) -> pl.DataFrame:
    return rows.filter(
        pl.col("measure").is_in(measures), pl.col("tokens") == tokens, pl.col("variant") == "raw", pl.col("group") == "all",
        pl.col("protocol") == "sound", pl.col("value").is_not_nan(),
    )  # fmt: skip


def of_benchmark(run: store.Run) -> Iterator[Figure]:
    """Of each type of question the leaderboard, and the curves over blocks."""
    kinds = run.leaderboard["question_type"].unique(maintain_order=True).to_list()
    for number, kind in enumerate(kinds[:1] if len(kinds) == 2 else kinds):
        board = run.leaderboard.filter(
            pl.col("question_type") == kind, pl.col("finding") == "all", pl.col("measure") == "pointing"
        ).sort("value", descending=True)  # fmt: skip
        asked = "all questions" if kind == "all" else f"questions of the type {kind}"
        yield Figure(
            f"leaderboard-{number}", f"Which maps lie on what is there: {asked}", {"": benchmark.board_chart(board)}, board,
            "The pointing game on test images: how often the largest value of a map lies in the region that was asked for. The "
            "block and the best method were chosen on other images.",
            "Zhang et al. 2016", OVER_IMAGES,
        )  # fmt: skip
        layers = run.layers.filter(pl.col("question_type") == kind)
        if layers.height:
            sides = benchmark.curves_chart(layers)["hconcat"]
            named = dict(zip(layers["method"].unique(maintain_order=True).to_list(), sides, strict=True))
            yield Figure(
                f"layers-{number}", f"The pointing game at every block: {asked}", named, layers,
                "Blue: on test images; grey: on those that chose the block.", "Zhang et al. 2016", OVER_IMAGES,
            )  # fmt: skip


def of_maps(run: store.Run) -> Iterator[Figure]:
    """The maps of one sample, as the run has drawn them."""
    told: dict[str, Any] = run.manifest
    verdicts = {card["method"]: card["verdict"] for card in told["cards"]}
    for number, said in enumerate(told["maps"]):
        name = file_name(f"map-{number}-{said['method']}")
        rows = run.maps.filter(pl.col("map") == number)
        about = {**said, "verdict": verdicts.get(said["method"]), "question": told["question"], "answer": told["answer"]}
        yield from drawn_map(run, f"{name}.svg", name, rows, about)


def drawn_map(run: store.Run, picture: str, name: str, rows: pl.DataFrame, about: Mapping[str, Any]) -> Iterator[Figure]:
    """A map whose picture lies in the run; none of any other folder, whatever the run says. about: method, target, layer, note,
    verdict, question, answer."""
    if (path := within(run.path, picture)) is None:
        return
    verdict = f"Its report card: {about['verdict']}. " if about["verdict"] else ""
    where = "" if about["layer"] is None else f", read at block {about['layer']}"
    note = f"{about['note'].removesuffix('.')}." if about["note"] else ""
    answer = "" if about["answer"] is None else f"; the model's answer: “{about['answer']}”"
    yield Figure(
        name, f"{about['method']}: {about['target']}", {}, rows,
        f"What each part of the image says for {about['target']}{where}. The question: “{about['question']}”{answer}. "
        f"{verdict}{note}",
        "", "", path.read_text(encoding="utf-8"),
    )  # fmt: skip
