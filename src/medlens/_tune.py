"""Training a tuned lens, state by state, from one walk; and what it is worth on images that it never saw."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional

from medlens import hooks
from medlens._answering import answer_prompts
from medlens._prepare import Nobody, Prepared, Watcher, prepare
from medlens._record import fingerprint
from medlens.errors import BadData, BadInput
from medlens.measures.lens import said
from medlens.models import Model
from medlens.models.tuned import TunedLens, open_lens, translate
from medlens.models.unembedding import Unembedding
from medlens.plan import Plan
from medlens.spread import jackknife_error, student
from medlens.store import check_place
from medlens.types import Sample
from medlens.unfinished import Unfinished, explained
from medlens.walk.cases import cases, folds_of
from medlens.walk.forward import steps
from medlens.walk.kept import KeptRows
from medlens.walk.room import Files

ROWS = 16_384  # tokens whose states are kept
BATCH = 256
RATE = 1e-3  # Adam's, falling to 0
JUDGED = 1024  # tokens of the validation images
LOOKS = 10  # times that the validation images are looked at
FOLDS = 5  # of whole images: one is held out, one says when to stop
TRAINING, VALIDATION, HELD_OUT = "training", "validation", "held out"


def train_lens(
    model: Model | str | Path = "phantom",
    samples: Sequence[Sample] | str | Path = "phantom",
    out: str | Path = "lens.safetensors",
    plan: Plan = Plan(),  # noqa: B008 (frozen)
    *,
    steps: int = 400,
    watcher: Watcher | None = None,
) -> TunedLens:
    """Train a tuned lens and write it to the file `out`.

    One walk through questions and answers; the states of some tokens (16,384 at most) are kept in files. Then each state's map,
    which starts at zero (the logit lens), learns for so many `steps` of 256 tokens to say what the model says in the end: the
    loss is KL(final || lens). Of five folds of whole images three train it, one says when it was best, and one, which it never
    saw, what it is worth: `TunedLens.told["held_out"]`, for image tokens and others apart, with intervals over images.

    In memory: the kept rows of two states, one state's map with its optimiser (16 d^2 bytes), the head, and 256 rows of logits.

    Raises BadData for fewer than five images; else as `study`.
    """
    out, watcher = Path(out), watcher or Nobody()
    check_place(out)
    if steps < 1:
        raise BadInput(f"steps is {steps}; expected at least 1")
    with explained(out), tempfile.TemporaryDirectory(dir=plan.scratch, prefix=".medlens-") as scratch:
        prepared = prepare(model, samples, plan, watcher, Path(scratch))
        kept, part_of = _walked(prepared, Path(scratch), watcher)
        lens = _trained(prepared, kept, part_of, steps, watcher)
        lens.save(out)
    return lens


def load_lens(path: str | Path, model: Model) -> TunedLens:
    """A tuned lens that was trained for this model. Raises BadModel for a file that is none, and for other weights' lens."""
    return open_lens(Path(path), model, fingerprint(model))


def _walked(prepared: Prepared, scratch: Path, watcher: Watcher) -> tuple[KeptRows, dict[str, str]]:
    """The states of some tokens, and which part of the data each image is in."""
    model = prepared.model
    watcher.begin("answering", len(prepared.prompts))
    _, prompts = answer_prompts(prepared, prepared.prompts, Unfinished(scratch, scratch), watcher.tick)
    laid = cases(model, prompts)
    fold_of = folds_of(laid, FOLDS)
    if len(set(fold_of.values())) < FOLDS:
        raise BadData(f"a lens is trained, stopped and judged on different images: {FOLDS} at least; got {len(fold_of)}")
    names = [HELD_OUT, VALIDATION, *[TRAINING] * (FOLDS - 2)]
    kept = KeptRows(scratch, laid, model.width, ROWS, prepared.plan.seed)
    room = Files(scratch, [len(case.pack.ids) for case in laid], model.width, model.dtype, model.device)
    watcher.begin("walking through the blocks", len(laid) * model.depth)
    for _ in steps(model, laid, [kept], watcher.tick, room):
        pass
    return kept, {image: names[fold] for image, fold in fold_of.items()}


def _trained(prepared: Prepared, kept: KeptRows, part_of: dict[str, str], count: int, watcher: Watcher) -> TunedLens:
    model, maps, shifts, table = prepared.model, [], [], []
    final = kept.rows("normed").to(model.device, model.dtype)
    where = {p: torch.tensor([part_of[t.image] == p for t in kept.tokens]) for p in (TRAINING, VALIDATION, HELD_OUT)}
    watcher.begin("training", model.depth)
    with ExitStack() as stack:
        stack.enter_context(hooks.evaluation(model.module))
        stack.enter_context(model.here("norm", "head"))
        stack.enter_context(hooks.frozen(model.norm, model.head))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for state in range(model.depth):
            torch.manual_seed(prepared.plan.seed + state)
            pupil = _Pupil(model, kept.rows(state).to(model.device, model.dtype), final)
            pupil.learn(where[TRAINING], where[VALIDATION], count)
            maps.append(pupil.best[0])
            shifts.append(pupil.best[1])
            table += _worth(state, pupil, kept, where[HELD_OUT])
            watcher.tick()
    told = {
        "model": model.name if model.name.startswith("phantom") else Path(model.name).name, "data": prepared.data_name,
        "steps": count, "seed": prepared.plan.seed, "images": len(part_of), "tokens": len(kept.tokens), "held_out": table,
    }  # fmt: skip
    return TunedLens(model, tuple(maps), tuple(shifts), prepared.identity["weights"], told)


class _Pupil:
    """One state's map, while it learns. best: map and shift of the moment when the validation images liked it best."""

    def __init__(self, model: Model, rows: Tensor, final: Tensor) -> None:
        self.model, self.rows, self.final = model, rows, final
        d = model.width
        self.map = torch.zeros(d, d, device=rows.device, requires_grad=True)
        self.shift = torch.zeros(d, device=rows.device, requires_grad=True)
        self.words = Unembedding(model).words
        self.best = (torch.zeros(d, d, device=rows.device), torch.zeros(d, device=rows.device))

    def learn(self, training: Tensor, validation: Tensor, count: int) -> None:
        optimiser = torch.optim.Adam([self.map, self.shift], lr=RATE)
        falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, count)
        seen, judged = training.nonzero()[:, 0], _some(validation.nonzero()[:, 0])
        least = self._judged(judged)
        for step in range(count):
            batch = seen[torch.randint(len(seen), (BATCH,))]
            with torch.enable_grad():
                optimiser.zero_grad()
                self._loss(batch).backward()
            optimiser.step()
            falling.step()
            if (step + 1) % max(1, count // LOOKS) == 0 and (now := self._judged(judged)) < least:
                least, self.best = now, (self.map.detach().clone(), self.shift.detach().clone())

    def _judged(self, at: Tensor) -> float:
        return float(self.kl(at, self.map.detach(), self.shift.detach()).mean())

    def _loss(self, batch: Tensor) -> Tensor:
        """KL(final || lens), the mean over tokens; the whole vocabulary of one batch."""
        normed = self.model.norm(translate(self.rows[batch], self.map, self.shift)[None])[0]
        ours, theirs = (self.model.unembed(x)[:, : self.words].float().log_softmax(-1) for x in (normed, self.final[batch]))
        return functional.kl_div(ours, theirs.detach(), reduction="batchmean", log_target=True)

    def kl(self, at: Tensor, map_: Tensor, shift: Tensor) -> Tensor:
        """KL(final || lens) of rows, in nats, (n)."""
        normed = self.model.norm(translate(self.rows[at], map_, shift)[None])[0]
        return said(normed, self.final[at], torch.zeros_like(at), Unembedding(self.model).logits).kl


def _some(at: Tensor) -> Tensor:
    """At most 1,024 of them, evenly spread: looking costs as much as learning."""
    return at[:: max(1, len(at) // JUDGED)][:JUDGED]


def _worth(state: int, pupil: _Pupil, kept: KeptRows, held_out: Tensor) -> list[dict[str, float | int | str]]:
    """What a map gains on images that it never saw: KL of the logit lens less its own, with a 95 % interval over images."""
    found = []
    for group in ("image", "others"):
        mine = [k for k, t in enumerate(kept.tokens) if held_out[k] and (t.group == "image") == (group == "image")]
        if not mine:
            continue
        at = torch.tensor(mine)
        logit = pupil.kl(at, *(torch.zeros_like(x) for x in pupil.best))
        tuned = pupil.kl(at, *pupil.best)
        low, high = _interval((logit - tuned).cpu().numpy(), [kept.tokens[k].image for k in mine])
        means = {"logit_kl": float(logit.mean()), "tuned_kl": float(tuned.mean())}
        gain = means["logit_kl"] - means["tuned_kl"]
        found.append({"layer": state, "tokens": group, **means, "gain": gain, "low": low, "high": high, "n": len(mine)})
    return found


def _interval(gains: np.ndarray, images: list[str]) -> tuple[float | None, float | None]:
    """Of a mean over tokens, by leaving out one image after the other."""
    names = sorted(set(images))
    if len(names) < 2:
        return None, None
    of = np.array([names.index(image) for image in images])
    without = np.array([gains[of != k].mean() for k in range(len(names))])
    wide = float(jackknife_error(without) * student(len(names) - 1, 0.025))
    return float(gains.mean()) - wide, float(gains.mean()) + wide


def worth(lens: TunedLens) -> pl.DataFrame:
    """What is told of a lens's worth, as a table."""
    return pl.DataFrame(lens.told["held_out"])
