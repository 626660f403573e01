"""Maps of one sample: what on the image speaks for a word. (The function is `explain`.)"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from medlens import saliency
from medlens._explain.aims import Aimed, aimed, begin, every_logit, every_token, own_answer
from medlens._explain.card import Subject, cards, cost
from medlens._explain.page import Explanation, Failed
from medlens._gate import gates
from medlens._record import public_name
from medlens.data.images import open_image
from medlens.errors import BadInput, BadModel, MedlensError
from medlens.models import Model, load
from medlens.models.hf import first_line
from medlens.models.registration import boxes, check_mask, stretched
from medlens.phantom.questions import is_foreign_sample
from medlens.plan import WIDE
from medlens.saliency import Choices
from medlens.saliency.asked import Asked
from medlens.types import Heatmap, Sample
from medlens.walk.cases import cases
from medlens.walk.forward import prepare

Found = tuple[np.ndarray, saliency.Said]
Tick = Callable[[], None]

METHODS = ("gradcam_attention", "relevance", "integrated_gradients")
COVERED = "pixel_occlusion"  # besides, where a model is small enough to see every token's pixels covered in turn


def explain(
    model: Model | str | Path,
    sample: Sample,
    *,
    target: str | None = None,
    contrast: Sequence[str] | None = None,
    begun: str | None = None,
    methods: Sequence[str] | None = None,
    layer: int | None = None,
    choices: Choices | None = None,
    tokens: bool = True,
    card: bool = True,
    seed: int = 0,
    out: str | Path | None = None,
    scratch: Path | None = None,
    tick: Tick = lambda: None,
) -> Explanation:
    """Which parts of the image speak for a word: maps of several methods, each on the original image's pixels.

    target: the word that is explained; contrast: two words, the first against the second. Default: the first token of the model's
    own answer. A word of several tokens is handled, and that is said in the map's note. begun: the first words of an answer, which
    the model goes on from ("The image is a"). methods: see `medlens.saliency.METHODS`; default: METHODS, and COVERED where the
    model is at most 1,024 wide. layer: the block that those methods are read at which have one; default: the middle one. choices:
    what the published study did otherwise (see `medlens.saliency.Choices`), to be switched on alone or together. tokens: also a map
    of each token of question and answer, by the first of the methods. seed: of the random baseline. out: folder for the page.
    scratch: where states wait meanwhile; default: the system's folder for temporary files. `tick` is called as often as `ticks`
    says.

    A method that fails is listed in `failed`, with its reason. Raises BadInput for a sample that has not one image, a layer out of
    range, an unknown method, a target that cannot be said, and a region of another size than the image; BadModel for a family whose
    image tokens cannot be placed on the image, and where no method gave a map.
    """
    model = model if isinstance(model, Model) else load(model)
    chosen = tuple(methods or methods_for(model))
    at = _check(model, sample, chosen, layer)
    image = open_image(sample.image, sample.id, grey=True)
    asked = prepare(model, sample)
    regions, choices = _regions(sample, image), choices or Choices()
    placed = boxes(model, image, asked.look)
    placed = stretched(model, image, len(placed)) if choices.stretched else placed
    prompt = begin(model, asked, begun, choices.closed)
    own = own_answer(model, prompt)
    aim = every_logit(prompt) if choices.every_logit else aimed(model, prompt, own, target, contrast, begun)
    job = _Job(model, at, placed, (image.height, image.width), seed, choices, scratch)
    tick()
    maps, failed = job.of_each_method(aim, chosen)
    tick()
    if not maps:
        raise BadModel(f"{model.name}: no method gave a map: {'; '.join(f'{f.method}: {f.reason}' for f in failed)}")
    of_tokens = job.of_each_token(every_token(model, prompt, own), maps[0].method) if tokens else []
    tick()
    gate = gates(model, [asked], answers=[own], seed=seed, spill=scratch)[0] if card else None
    subject = Subject(model, aim.prompt, aim.aim, image, sample.regions, at, choices, seed, scratch)
    found = Explanation(
        _called(model), sample.id, sample.question, str(own), image,
        tuple(replace(of, image=image) for of in maps), tuple(replace(of, image=image) for of in of_tokens), tuple(failed), regions,
        gate, tuple(cards(subject, maps, gate, tick)) if gate else (), sample.answer, is_foreign_sample(_called(model), sample),
    )  # fmt: skip
    if out is not None:
        found.write(out)
    return found


def methods_for(model: Model) -> tuple[str, ...]:
    """What `explain` shows by default."""
    return METHODS if model.width > WIDE else (*METHODS, COVERED)


def ticks(methods: int, card: bool = True) -> int:
    """How often `explain` ticks, with so many methods that succeed."""
    return 3 + (cost(methods) if card else 0)


@dataclass(frozen=True)
class _Job:
    model: Model
    layer: int
    boxes: np.ndarray
    size: tuple[int, int]
    seed: int
    choices: Choices
    scratch: Path | None

    def of_each_method(self, aimed: Aimed, methods: Sequence[str]) -> tuple[list[Heatmap], list[Failed]]:
        """Together, in one walk; where that fails, one by one, to know which it was."""
        try:
            found = self._maps([aimed], methods)
            return [self._heatmap(name, aimed, found[name][0]) for name in methods], []
        except (MedlensError, RuntimeError):
            maps, failed = [], []
        for name in methods:
            try:
                maps.append(self._heatmap(name, aimed, self._maps([aimed], [name])[name][0]))
            except (MedlensError, RuntimeError) as e:
                failed.append(Failed(name, first_line(e)))
        return maps, failed

    def of_each_token(self, every: Sequence[Aimed], method: str) -> list[Heatmap]:
        found = self._maps(every, [method])[method] if every else []
        return [self._heatmap(method, aimed, of) for aimed, of in zip(every, found, strict=True)]

    def _maps(self, every: Sequence[Aimed], methods: Sequence[str]) -> dict[str, list[Found]]:
        laid_out = {id(of.prompt): cases(self.model, [of.prompt])[0] for of in every}  # one walk for all targets of a prompt
        asked = [Asked(laid_out[id(of.prompt)], of.aim) for of in every]
        laid, notes = [self.boxes] * len(every), {}
        found = saliency.maps(
            self.model, asked, methods, layers=[self.layer], choices=self.choices, boxes=laid, seed=self.seed, scratch=self.scratch,
            notes=notes,
        )  # fmt: skip
        return {name: [(row, notes.get((name, k), saliency.Said())) for k, row in enumerate(rows)] for name, rows in found.items()}

    def _heatmap(self, method: str, aimed: Aimed, found: Found) -> Heatmap:
        values, said = found
        by_block = saliency.METHODS[method].by_block
        row = np.asarray(values, dtype=np.float64)[0] if by_block else np.asarray(values, dtype=np.float64)
        if not np.isfinite(row).all():
            raise BadModel(f"{method} gave values that are no numbers")
        return Heatmap(
            method,
            aimed.name,
            row,
            self.boxes,
            self.size,
            self.layer if by_block else None,
            "; ".join(words for words in (aimed.note, said.note) if words),
            said.sinks[0] if said.sinks else (),
        )


def _check(model: Model, sample: Sample, methods: Sequence[str], layer: int | None) -> int:
    if not isinstance(sample, Sample):
        raise BadInput(f"expected a Sample; got {type(sample).__name__}")
    if len(sample.images) != 1:
        raise BadInput(f"sample {sample.id or '?'} has {len(sample.images)} images; a map lies on one")
    if unknown := [name for name in methods if name not in saliency.METHODS]:
        raise BadInput(f"no method {unknown[0]!r}; the methods are {', '.join(saliency.METHODS)}")
    if layer is not None and not 0 <= layer < model.depth:
        raise BadInput(f"the blocks of {model.name} are 0 to {model.depth - 1}; got layer {layer}")
    return model.depth // 2 if layer is None else layer


def _called(model: Model) -> str:
    tower = model.origin.get("vision_tower")
    return public_name(model.name) + (f", vision tower {tower['name']} ({tower['used']})" if tower else "")


def _regions(sample: Sample, image: Image.Image) -> np.ndarray | None:
    if not sample.regions:
        return None
    masks = [region.array() for region in sample.regions]
    for region, mask in zip(sample.regions, masks, strict=True):
        check_mask(mask, (image.height, image.width), f"sample {sample.id or '?'}: the mask of {region.name}")
    return np.any(masks, axis=0)
