"""The only configuration. Command-line flags map onto it, one to one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from medlens.budget import bytes_of
from medlens.errors import BadInput
from medlens.grammar import own_names, parse

INSTRUMENTS = ("geometry", "contextualization", "lens", "tokens", "maps")
NULLS = ("pairs", "weights", "noise")
HOW = ("memory", "scratch", "workers", "cluster")
WIDE = 1024  # columns above which some things cost more than walking: what is then left out is a choice of the plan
MAPPED = 2  # images of which maps are made, of a model that is not wide


@dataclass(frozen=True)
class Plan:
    """What a study does.

    instruments: which ones read the walk. limit: only the first so many samples. seed: of the row sample (and of phantom data).
    question: asked of images that come without one. window: (centre, width) through which DICOM images are shown, not their own.
    answers: "generate" (then read on) or "given" (the data's own). max_new_tokens: cap of a generated answer; temperature: 0 for
    greedy ones, else they are drawn, from the `top_p` share of the probability; stop: words at which an answer ends.
    lens_images: of at most so many images the lens keeps the words of every token, and it is kept where each token looks and which
    units fire there. map_images: of at most so many maps are made, each with its report card, which walks the sample some 500
    times (None: of 2 where the model is at most 1,024 wide, else of none).
    neighbour_rows: at most so many rows a group enter the intrinsic dimension. keep: the share of ratios it is fitted on.
    folds: of whole images (patients where the data name them): sums are kept for each.
    protocol: "sound", or "published" for the choices of the published study. unit_images: with the latter, of so many images the
    words that units write are counted (0: of none). nulls: what the measures give where nothing is to be
    found: "pairs" (shuffled), "weights" (drawn anew), "noise" (in place of the images); the last two cost a walk each. by: fields
    or tags of the samples, each of whose values gets rows of its own. thorough: intervals also where they cost more than the walk
    (None: where the model is at most 1,024 wide). claims: to be tested beside the study's own. measures: the user's own, as
    "module:function".
    vision_tower: of a checkpoint in LLaVA-Med's original layout: see `load`.
    adapter: a folder with a LoRA adapter to merge into the model: see `load`.
    device, dtype: where and in which float type the model runs, when `study` loads it.
    skip_bad: leave out samples that cannot be read, and list them, instead of stopping.

    What follows says how, and changes no result. memory: at most so much, such as "4GiB" (default: what is free); a model that
    needs more is streamed. scratch: a folder for what waits on disk (default: beside the run). workers: so many processes share the
    walk, each with a model of its own (and `memory` each). cluster: "auto" or the address of a Ray cluster whose machines share it.
    """

    instruments: tuple[str, ...] = INSTRUMENTS
    limit: int | None = None
    seed: int = 0
    question: str | None = None
    window: tuple[float, float] | None = None
    answers: Literal["generate", "given"] = "generate"
    max_new_tokens: int = 16
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    lens_images: int = 8
    map_images: int | None = None
    neighbour_rows: int = 4096
    keep: float = 0.9
    folds: int = 5
    protocol: Literal["sound", "published"] = "sound"
    unit_images: int = 4
    nulls: tuple[str, ...] = ("pairs",)
    by: tuple[str, ...] = ()
    thorough: bool | None = None
    claims: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    vision_tower: str = "auto"
    adapter: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    skip_bad: bool = False
    memory: str | None = None
    scratch: str | None = None
    workers: int = 1
    cluster: str | None = None

    def __post_init__(self) -> None:
        known = bool(self.instruments) and set(self.instruments) <= set(INSTRUMENTS)
        self._need(known, "instruments", f"one or more of {', '.join(INSTRUMENTS)}")
        self._need(self.limit is None or self.limit > 0, "limit", "a positive number of samples")
        self._need(self.seed >= 0, "seed", "a number from 0 on")
        self._need(
            self.window is None or (len(self.window) == 2 and self.window[1] >= 1), "window", "(centre, width), width at least 1"
        )
        self._need(self.answers in ("generate", "given"), "answers", "'generate' or 'given'")
        self._need(self.max_new_tokens > 0, "max_new_tokens", "a positive number")
        self._need(self.temperature >= 0, "temperature", "0 (greedy) or more")
        self._need(0 < self.top_p <= 1, "top_p", "a share above 0, at most 1")
        self._need(all(self.stop), "stop", "words, none of them empty")
        self._need(self.lens_images >= 1, "lens_images", "at least 1")
        self._need(self.map_images is None or self.map_images >= 0, "map_images", "a number of images from 0 on")
        self._need(self.neighbour_rows >= 3, "neighbour_rows", "at least 3")
        self._need(0 < self.keep < 1, "keep", "a share between 0 and 1")

        self._need(self.folds >= 1, "folds", "at least 1")
        self._need(self.protocol in ("sound", "published"), "protocol", "'sound' or 'published'")
        beside = self.by or self.measures or set(self.nulls) - {"pairs"}
        self._need(self.protocol == "sound" or not beside, "protocol", "'sound' for subgroups, nulls and measures of your own")
        self._need(self.unit_images >= 0, "unit_images", "a number of images from 0 on")
        self._need(set(self.nulls) <= set(NULLS), "nulls", f"some of {', '.join(NULLS)}")
        self._need(self.workers >= 1, "workers", "at least 1")
        for claim in self.claims:
            parse(claim, own_names(self.measures))
        if self.memory is not None:
            bytes_of(self.memory)

    def _need(self, held: bool, field: str, expected: str) -> None:
        if not held:
            raise BadInput(f"{field} is {getattr(self, field)!r}; expected {expected}")

    def as_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}  # as JSON gives it back

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Plan:
        """The inverse of `as_dict`."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in written.items()}
        return cls(**fields)

    def what(self) -> dict[str, Any]:
        """The part that the results depend on."""
        return {k: v for k, v in self.as_dict().items() if k not in HOW}
