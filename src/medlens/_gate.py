"""The gate: does an answer rest on the image at all? Asked before anything is explained.

Every question is asked again of at least eight other images (`_swaps`), and what the model makes of its own answer there is held
against what it makes of it here. An answer that is the same proves nothing ("yes" may be said of every image, and rightly of this
one); what must move is how sure the model is of it.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from medlens._swaps import Swap, swaps
from medlens.models.base import Model
from medlens.models.prompt import read
from medlens.types import Answer, Group, Tokens
from medlens.walk.cases import Case, Prompt, cases
from medlens.walk.forward import steps
from medlens.walk.generate import answer_together
from medlens.walk.room import Files, Room
from medlens.walk.target import log_odds

BOUND = 1.0  # nats of log-odds
NEW_TOKENS = 16  # of an answer, where none is given
TOGETHER = 8  # packs of a resident model that walk together: more would only wait in memory

Tick = Callable[[], None]


class Swapped(NamedTuple):
    """One question with another image. before, after: the log-odds of its answer with its own and with that image; shift: after -
    before; changed: whether the likeliest token differs anywhere along the answer (of the model's own greedy answer: whether the
    answer changes); divergence: Jensen-Shannon, between the two distributions of the answer's first token, in bits (0..1)."""

    sample: str
    swap: Swap
    before: float
    after: float
    changed: bool
    divergence: float

    @property
    def shift(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class Gate:
    """Whether one answer rests on the image. shift: the largest change of its log-odds, either way, over so many swaps, in nats;
    bound: what it has to exceed. words: the verdict, for a reader."""

    sample: str
    rests: bool
    shift: float
    bound: float
    swaps: int
    words: str


def gates(
    model: Model, prompts: Sequence[Prompt], *, answers: Sequence[Answer | str | None] | None = None, seed: int = 0,
    tick: Tick = lambda: None, spill: Path | None = None,
) -> list[Gate]:  # fmt: skip
    """Of each prompt, whether its answer rests on the image. answers, spill: `swapped`.

    The rule: if under each of at least eight swaps of the image the log-odds of the answer stay within BOUND of what they are with
    its own image, the answer does not depend on the image. The largest shift decides and not a mean, because one image that matters
    is enough: an answer about the modality rightly stays when the swapped image is of the same one. BOUND is set on the phantoms
    (see docs/reliance.md for its error rates); models are more or less sure of what they say, so the shift itself is given too. A
    prompt without an image rests on none.
    """
    return gates_of(prompts, swapped(model, prompts, answers=answers, seed=seed, tick=tick, spill=spill))


def gates_of(prompts: Sequence[Prompt], rows: Sequence[Swapped]) -> list[Gate]:
    """The gate of each prompt, from what swaps did."""
    found: dict[str, list[Swapped]] = {prompt.sample.id: [] for prompt in prompts}
    for row in rows:
        found[row.sample].append(row)
    return [gate_of(sample, of_it) for sample, of_it in found.items()]


def gate_of(sample: str, rows: Sequence[Swapped], bound: float | None = None) -> Gate:
    """The gate of one sample, from its swaps (none: it has no image)."""
    bound = BOUND if bound is None else bound
    if not rows:
        return Gate(sample, False, 0.0, bound, 0, "there is no image that the answer could rest on")
    shift = max(abs(row.shift) for row in rows)
    against = f"{'more' if shift > bound else 'not more'} than {bound:g}"
    said = f"with {len(rows)} other images its log-odds move by up to {shift:.2g} ({against})"
    verdict = "this answer depends on the image" if shift > bound else "this answer does not depend on the image"
    return Gate(sample, shift > bound, shift, bound, len(rows), f"{verdict}: {said}")


def stamp(found: Sequence[Gate]) -> str:
    """What is put on everything that explains these answers: how many of them do not depend on the image."""
    if len(found) == 1:
        return found[0].words
    gated = sum(not gate.rests for gate in found)
    if not gated:
        return f"all {len(found)} answers depend on the image"
    return f"{gated} of {len(found)} answers do not depend on the image: what explains them is no account of what was seen"


def swapped(
    model: Model, prompts: Sequence[Prompt], *, answers: Sequence[Answer | str | None] | None = None, seed: int = 0,
    tick: Tick = lambda: None, spill: Path | None = None,
) -> list[Swapped]:  # fmt: skip
    """Every question with its own image and with others, the answer teacher-forced: one row a question and swap.

    answers: the model's own (with their ids), or texts; by default (and where one is None), greedy ones. All questions on an image,
    its own and those for which it stands in, share one pack. `tick` is called once for each question that is done. spill: of a
    streamed model, a folder where states wait.
    Raises BadImage, and NotFinite, naming the sample.
    """
    said = _said(model, prompts, answers)
    return under(model, prompts, said, swaps(model, prompts, said, seed), tick=tick, spill=spill)


def under(
    model: Model, prompts: Sequence[Prompt], said: Sequence[Answer | str], others: Sequence[Sequence[Swap]], *,
    tick: Tick = lambda: None, spill: Path | None = None,
) -> list[Swapped]:  # fmt: skip
    """`swapped`, under swaps of one's own choice for each prompt."""
    ids = [ids_of(model, prompt, text) for prompt, text in zip(prompts, said, strict=True)]
    asked: list[_Asked] = []
    for k, (prompt, answer, swapped_in) in enumerate(zip(prompts, ids, others, strict=True)):
        if swapped_in and answer:
            asked.append(_Asked(k, None, told(model, prompt, Swap("own", 0, prompt.image, prompt.look), answer)))
            asked += [_Asked(k, swap, told(model, prompt, swap, answer)) for swap in swapped_in]
    rows = _read(model, asked, [len(i) for i in ids], tick, spill)
    return _compared(model, prompts, asked, ids, rows)


class _Asked(NamedTuple):
    """A question (its number) on one image (None: its own), as it walks."""

    number: int
    swap: Swap | None
    prompt: Prompt


def _said(model: Model, prompts: Sequence[Prompt], answers: Sequence[Answer | str | None] | None) -> list[Answer | str]:
    given = [None] * len(prompts) if answers is None else list(answers)
    missing = [k for k, text in enumerate(given) if text is None]
    made = dict(zip(missing, answer_together(model, [prompts[k] for k in missing], NEW_TOKENS), strict=True)) if missing else {}
    return [made[k] if text is None else text for k, text in enumerate(given)]


def ids_of(model: Model, prompt: Prompt, said: Answer | str) -> tuple[int, ...]:
    """The answer's tokens; of one that the model wrote, as it wrote them, with the end. A place for an image, which an untrained
    model may write, ends it too: nothing can be read behind it."""
    if isinstance(said, Answer) and said.ids:
        places = [k for k, i in enumerate(said.ids) if i == model.image_token_id]
        return said.ids[: places[0] + 1] if places else said.ids
    tokens = read(model, prompt.sample, prompt.look, str(said))
    return tuple(tokens.ids[k] for k in tokens.where("answer"))


def told(model: Model, prompt: Prompt, swap: Swap, ids: tuple[int, ...]) -> Prompt:
    """The question on another image, with the answer behind it but for its last token, which is only to be said."""
    same = swap.look.placeholders == prompt.look.placeholders
    tokens, fed = prompt.tokens if same else read(model, prompt.sample, swap.look), ids[:-1]
    groups: tuple[Group, ...] = (*tokens.groups, *("answer" for _ in fed))
    texts = (*tokens.texts, *model.tokenizer.convert_ids_to_tokens(list(fed)))
    return replace(prompt, look=swap.look, tokens=Tokens((*tokens.ids, *fed), groups, texts), image=swap.image)


class _Rows:
    """Keeps, of each prompt, the states behind the final norm that predict its answer; ticks when a question has all its images."""

    def __init__(self, asked: Sequence[_Asked], lengths: Sequence[int], tick: Tick) -> None:
        self.number = {id(one.prompt): one.number for one in asked}
        self.lengths, self.tick = lengths, tick
        self.waiting = Counter(self.number.values())
        self.found: dict[int, Tensor] = {}

    def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None: ...
    def leave(self, block: int) -> None: ...

    def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None:
        for branch, prompt in enumerate(case.prompts):
            at, number = case.pack.rows(branch), self.number[id(prompt)]
            self.found[id(prompt)] = normed[at[len(at) - self.lengths[number] :]].cpu()
            self.waiting[number] -= 1
            if not self.waiting[number]:
                self.tick()


def _read(model: Model, asked: Sequence[_Asked], lengths: Sequence[int], tick: Tick, spill: Path | None) -> list[Tensor]:
    """(answer, d) of each. A few packs at a time; of a streamed model all together, so that its weights are read once."""
    keeper = _Rows(asked, lengths, tick)
    laid = cases(model, [one.prompt for one in asked])
    with tempfile.TemporaryDirectory(dir=spill) as folder:
        for together in [laid] if model.weights else [laid[k : k + TOGETHER] for k in range(0, len(laid), TOGETHER)]:
            for _ in steps(model, together, [keeper], lambda: None, _room(model, together, Path(folder))):
                pass
    return [keeper.found[id(one.prompt)] for one in asked]


def _room(model: Model, together: Sequence[Case], folder: Path) -> Room:
    if not model.weights:
        return Room()
    return Files(folder, [len(case.pack.ids) for case in together], model.width, model.dtype, model.device)


@torch.no_grad()
def _compared(
    model: Model, prompts: Sequence[Prompt], asked: Sequence[_Asked], ids: Sequence[tuple[int, ...]], rows: Sequence[Tensor]
) -> list[Swapped]:
    own = {one.number: k for k, one in enumerate(asked) if one.swap is None}
    found, now, of_own = [], -1, (torch.empty(0), 0.0)
    with model.here("head"):
        for one, states in zip(asked, rows, strict=True):
            if one.swap is None:
                continue
            if one.number != now:
                now = one.number
                logits = model.unembed(rows[own[now]].to(model.device)).double()
                of_own = logits, of_answer(logits, ids[now])
            logits = model.unembed(states.to(model.device)).double()
            changed = bool((logits.argmax(-1) != of_own[0].argmax(-1)).any())
            apart = divergence(of_own[0][0], logits[0])
            found.append(Swapped(prompts[now].sample.id, one.swap, of_own[1], of_answer(logits, ids[now]), changed, apart))
    return found


def of_answer(logits: Tensor, ids: Sequence[int]) -> float:
    """log P - log(1 - P) of an answer, where P is the product of its tokens' probabilities: from logits (tokens, V), float64.

    Of one token, its log-odds; of a long answer, which is never likely as a whole, about the sum of its log-probabilities.
    """
    each = torch.stack([log_odds(row, word) for row, word in zip(logits, ids, strict=True)])
    log_p = -functional.softplus(-each).sum()  # log p = -log(1 + exp(-log-odds)): keeps its digits where p is nearly 1
    return float(log_p - torch.log(-torch.expm1(log_p)))


def divergence(one: Tensor, other: Tensor) -> float:
    """Jensen-Shannon divergence of two distributions, given by logits (V,), in bits: 0 where they are the same, 1 where they have
    nothing in common. Source: Lin 1991, IEEE Transactions on Information Theory 37:145."""
    p, q = one.log_softmax(-1), other.log_softmax(-1)
    middle = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0, dtype=p.dtype))
    nats = sum(((each.exp() * (each - middle)).sum() for each in (p, q)), torch.zeros((), dtype=p.dtype)) / 2
    return max(0.0, float(nats / torch.log(torch.tensor(2.0, dtype=p.dtype))))
