"""The logit lens inside a study: the words of every token of a few images, and at which state the answer is decided.

Words, probabilities and entropy are known as soon as a state is there. How far a state is from what the model says in the end is
not: the few rows that are asked for wait in files, one a state, so that a study that was stopped finds them again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from medlens.errors import BadModel, BadRun
from medlens.findings import Findings
from medlens.measures.lens import likeliest, said
from medlens.medical import MEASURES, Vocabulary, vocabulary_of
from medlens.models.base import Model
from medlens.models.null import Drawn
from medlens.models.unembedding import Unembedding
from medlens.plan import Plan
from medlens.stats.flat import need
from medlens.stats.intervals import jackknife, jackknife_share
from medlens.stats.rows import priority
from medlens.store import write
from medlens.types import Row, Value
from medlens.walk.cases import Case, Prompt
from medlens.walk.layout import Layout

WORDS = 5  # of a token and state
QUESTIONS = 1000  # whose decisions are followed, at most
ENTROPY_OF, KL_OF, MEDICAL_OF = ("image", "text", "answer"), ("text", "answer"), ("image", "text")
RANGE = {  # of measures that cannot be lower or higher: their intervals end there
    "answer_top": (0.0, 1.0),
    "answer_rank": (0.0, math.inf),
    "lens_kl": (0.0, math.inf),
    "lens_entropy": (0.0, math.inf),
}


@dataclass(frozen=True)
class Reader:
    """What reads a model's states. folder: where rows wait for the last state, beside the states of the walk."""

    model: Model
    folder: Path

    @cached_property
    def unembedding(self) -> Unembedding:
        try:
            return Unembedding(self.model)
        except BadModel as e:
            raise BadModel(f"{e}; leave it out: --instrument geometry --instrument contextualization") from e

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return vocabulary_of(self.model.tokenizer)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While many rows meet the head. One that is drawn and not read from a file comes whole, and stays that long."""
        with torch.no_grad(), self.model.here("head") if isinstance(self.model.weights, Drawn) else nullcontext():
            yield

    def normed(self, state: Tensor) -> Tensor:
        """Rows (T, d) of a raw state behind the final norm."""
        with torch.no_grad(), self.model.here("norm"):
            return self.model.norm(state[None])[0]

    def words(self, ids: Sequence[int]) -> list[str]:
        return [str(word) for word in self.model.tokenizer.convert_ids_to_tokens(list(ids))]

    def put(self, layer: int, rows: Tensor) -> None:
        write(self._path(layer), save({"rows": rows.cpu().contiguous()}))

    def get(self, layer: int) -> Tensor:
        """What was put. Raises BadRun where an earlier walk left it, and it is not what it was."""
        path = self._path(layer)
        try:
            return load_file(path)["rows"].to(self.model.device)
        except (OSError, SafetensorError) as e:
            raise BadRun(f"{path.parent.name}/{path.name} is missing or damaged; delete {path.parent.name}, and begin again") from e

    @staticmethod
    def waiting(folder: Path) -> list[Path]:
        """The files of the rows that wait in a folder."""
        return sorted(folder.glob("lens-*.safetensors"))

    def _path(self, layer: int) -> Path:
        return self.folder / f"lens-{layer:02d}.safetensors"


class Read(NamedTuple):
    """A token's words at a state. number: of its sample in the study."""

    number: int
    position: int
    fold: int
    sample: str
    image: str
    layer: int
    token: str
    tokens: str
    patch: int | None
    words: list[str]
    p: list[float]
    entropy: float


class Waiting(NamedTuple):
    """A row that waits for the last state. id: of the next token, which it was to say. decides: that is the answer's first one."""

    number: int
    position: int
    fold: int
    sample: str
    tokens: str
    id: int
    decides: bool


class Heard(NamedTuple):
    """What became of it at one state: see `measures.lens.Said`."""

    layer: int
    number: int
    position: int
    fold: int
    sample: str
    tokens: str
    decides: bool
    word: str
    kl: float
    rank: int
    log_p: float
    log_odds: float


class Score(NamedTuple):
    """A number of one sample, and how many rows it stands on."""

    fold: int
    value: float
    n: int


class Lens:
    """An `Instrument`: see `_instruments`. prompts: all of the study, in its order. reader: None where only findings of others are
    taken. protocol: what its rows are called; those of a null leave no tables.

    The images whose words are kept, and the questions that are followed where there are very many, are those of the lowest hash of
    seed and name: the same in every share of the study.
    """

    def __init__(
        self,
        plan: Plan,
        layout: Layout,
        findings: Findings,
        prompts: Sequence[Prompt] = (),
        reader: Reader | None = None,
        *,
        protocol: str = "sound",
    ) -> None:
        self.layout, self.findings, self.reader, self.protocol = layout, findings, reader, protocol
        self.number = {prompt.sample.id: k for k, prompt in enumerate(prompts)}
        self.worded = worded(plan, prompts)
        asked = sorted(self.number, key=lambda sample: priority(plan.seed, "decision", sample))
        self.followed = set(asked[:QUESTIONS])
        images = len({prompt.image for prompt in prompts})
        self.notes = [
            f"first question on {len(self.worded)} of {images} images" if len(self.worded) < len(prompts) else "",
            f"{QUESTIONS} of {len(prompts)} questions" if len(prompts) > QUESTIONS else "",
        ]
        self.vocabulary = None if reader is None else reader.vocabulary
        self._layer = 0
        self._rows: list[Tensor] = []
        self._waiting: list[Waiting] = []
        self._read: list[Read] = []
        self._heard: list[Heard] = []

    # ---- while the cases pass

    def visit(self, block: int, case: Case, before: Tensor, after: Tensor) -> None:
        self._see(block, case, before, None)

    def finish(self, case: Case, raw: Tensor, normed: Tensor) -> None:
        if self.reader is not None:
            self._see(self.reader.model.depth, case, raw, normed)

    def _see(self, layer: int, case: Case, state: Tensor, normed: Tensor | None) -> None:
        """normed: the state behind the final norm, where it is known."""
        if self.reader is None:
            return
        self._layer = layer
        for prompt, places in zip(case.prompts, case.readings, strict=True):
            waiting, all_words = self._asked(prompt), prompt.sample.id in self.worded
            positions = list(range(len(places))) if all_words else [row.position for row in waiting]
            if positions:
                at = [places[position] for position in positions]
                rows = self.reader.normed(state[at]) if normed is None else normed[at]
                if all_words:
                    self._read += self._words(layer, prompt, rows)
                    rows = rows[[row.position for row in waiting]]
                self._rows.append(rows)
                self._waiting += waiting

    def _asked(self, prompt: Prompt) -> list[Waiting]:
        """The token before the answer; and where words are kept, every text and answer token. None whose next token is no word: a
        place of the image, or a row of the head that only pads it."""
        assert self.reader is not None
        tokens, sample = prompt.tokens, prompt.sample.id
        answer, found = next(iter(tokens.where("answer")), None), []
        number, fold = self.number[sample], self.layout.fold_of.get(prompt.image, 0)
        for position in range(len(tokens) - 1):
            group, following = tokens.groups[position], tokens.ids[position + 1]
            decides = position + 1 == answer and sample in self.followed
            wanted = decides or (sample in self.worded and group in KL_OF)
            if wanted and tokens.groups[position + 1] != "image" and following < self.reader.unembedding.words:
                found.append(Waiting(number, position, fold, sample, group, following, decides))
        return found

    def _words(self, layer: int, prompt: Prompt, normed: Tensor) -> list[Read]:
        assert self.reader is not None
        tokens, sample = prompt.tokens, prompt.sample
        with self.reader.reading():
            found = likeliest(normed, self.reader.unembedding.logits, WORDS)
        k = found.ids.shape[1]
        words, p = self.reader.words(found.ids.flatten().tolist()), found.log_p.exp().tolist()
        patch = {position: index for index, position in enumerate(tokens.where("image"))}
        number, fold = self.number[sample.id], self.layout.fold_of.get(prompt.image, 0)
        return [
            Read(
                number, at, fold, sample.id, sample.image_id or prompt.image, layer, "" if at in patch else tokens.texts[at],
                tokens.groups[at], patch.get(at), words[at * k : (at + 1) * k], p[at], entropy,
            )
            for at, entropy in enumerate(found.entropy.tolist())
        ]  # fmt: skip

    # ---- when they have passed

    def leave(self, block: int) -> None:
        self._put_away()
        self._note_words(block)

    def conclude(self, layer: int) -> None:
        self._hear()
        self._note_words(layer)
        self._heard.sort()
        if self.protocol == "sound":
            self.findings.add_table("decisions", [_decision(heard) for heard in self._heard if heard.decides])
        for state in range(layer + 1):
            self._note_heard(state, [heard for heard in self._heard if heard.layer == state])

    def _put_away(self) -> None:
        """The rows of a state that is not the last one wait in their file; which ones they are will be known again at the last."""
        if self._rows and self.reader is not None:
            self.reader.put(self._layer, torch.cat(self._rows))
        self._rows, self._waiting = [], []

    def _hear(self) -> None:
        """All rows of all states, against the last state."""
        if not self._waiting or self.reader is None:
            return
        final, device = torch.cat(self._rows), self.reader.model.device
        ids = torch.tensor([row.id for row in self._waiting], device=device)
        words = self.reader.words(ids.tolist())
        for layer in range(self._layer + 1):
            normed = final if layer == self._layer else self.reader.get(layer)
            with self.reader.reading():
                found = said(normed, final, ids, self.reader.unembedding.logits)
            for row, word, kl, rank, log_p, log_odds in zip(self._waiting, words, *(part.tolist() for part in found), strict=True):
                own = (row.number, row.position, row.fold, row.sample, row.tokens, row.decides, word)
                self._heard.append(Heard(layer, *own, kl, int(rank), log_p, log_odds))
        self._rows, self._waiting = [], []

    def _note_words(self, layer: int) -> None:
        self._read.sort()
        if self.protocol == "sound":
            self.findings.add_table("lens", [_record(read) for read in self._read])
        for tokens in ENTROPY_OF:
            mine = [(read.number, read.fold, read.entropy) for read in self._read if read.tokens == tokens]
            self._note("lens_entropy", layer, tokens, _of_samples(mine), self.notes[0])
        for tokens in MEDICAL_OF:
            self._note_medical(layer, tokens, [read for read in self._read if read.tokens == tokens])
        self._read = []

    def _note_medical(self, layer: int, tokens: str, read: Sequence[Read]) -> None:
        """The shares of medical words, and their floor: the share in the vocabulary."""
        if self.vocabulary is None:
            return
        said = [self.vocabulary.scores(one.words, one.p) for one in read]
        for measure in MEASURES:
            of_each = [(one.number, one.fold, found[measure]) for one, found in zip(read, said, strict=True)]
            self._note(measure, layer, tokens, _of_samples(of_each), self.notes[0])
        floor = [(one.number, one.fold, self.vocabulary.shares["medical"]) for one in read]
        self._note("medical_words_floor", layer, tokens, _of_samples(floor), f"of {self.vocabulary.words} words")

    def _note_heard(self, layer: int, heard: Sequence[Heard]) -> None:
        whole = {row.number for row in heard if not row.decides and row.tokens in KL_OF}  # questions whose tokens all wait
        for tokens in KL_OF:
            mine = [(row.number, row.fold, row.kl) for row in heard if row.tokens == tokens and row.number in whole]
            self._note("lens_kl", layer, tokens, _of_samples(mine), self.notes[0])
        decisions = [row for row in heard if row.decides]
        measures = {
            "answer_log_odds": [Score(row.fold, row.log_odds, 1) for row in decisions],
            "answer_rank": [Score(row.fold, math.log2(row.rank), 1) for row in decisions],
            "answer_top": [Score(row.fold, float(row.rank == 1), 1) for row in decisions],
        }
        for measure, scores in measures.items():
            self._note(measure, layer, "answer", scores, self.notes[1])

    def _note(self, measure: str, layer: int, tokens: str, scores: Sequence[Score], note: str) -> None:
        value = _mean(scores)
        folds = sorted({score.fold for score in scores})
        without = {k: _mean([score for score in scores if score.fold != k]) for k in folds} if len(folds) > 1 else {}
        if measure in MEASURES:
            low, high, why = jackknife_share(value, list(without.values()), len(scores))
        else:
            low, high, why = jackknife(value, list(without.values()))
        if low is not None and high is not None and measure in RANGE:
            low, high = max(low, RANGE[measure][0]), min(high, RANGE[measure][1])
        notes = "; ".join(filter(None, (value.note or why, note)))
        row = Row(self.protocol, measure, layer, tokens, "all", "raw", float(value), low, high, value.n, notes)
        self.findings.add(row, without)

    # ---- across machines

    def hand_over(self) -> dict[str, Tensor]:
        """The words of the state before the block that all cases here have passed, for another's `take`."""
        self._put_away()
        return self._told()

    def hand_over_last(self) -> dict[str, Tensor]:
        """The same of the last state, and what its rows said at all others."""
        self._hear()
        return self._told()

    def _told(self) -> dict[str, Tensor]:
        told = json.dumps([self.notes, self.vocabulary, self._read, self._heard])
        self._read, self._heard = [], []
        return {"told": torch.frombuffer(bytearray(told.encode()), dtype=torch.uint8)}

    def take(self, sums: Mapping[str, Tensor]) -> None:
        """Add what another has handed over. Raises BadRun for anything else."""
        need("words of the lens", sums, ["told"])
        self.notes, vocabulary, read, heard = json.loads(sums["told"].numpy().tobytes())
        self.vocabulary = Vocabulary(*vocabulary) if vocabulary else None
        self._read += [Read(*fields) for fields in read]
        self._heard += [Heard(*fields) for fields in heard]


def worded(plan: Plan, prompts: Sequence[Prompt]) -> set[str]:
    """The samples the words of whose every token are kept: the first question on each of a few images."""
    first: dict[str, str] = {}
    for prompt in prompts:
        first.setdefault(prompt.image, prompt.sample.id)
    return {first[image] for image in sorted(first, key=lambda image: priority(plan.seed, "lens", image))[: plan.lens_images]}


def lens_bytes(model: Model, longest: int, images: int, questions: int, plan: Plan) -> int:
    """Of memory: the rows of one state that wait, twice, a block of logits of some rows in float64, and the words of a state."""
    unembedding = Reader(model, Path()).unembedding
    shown = min(images, plan.lens_images)
    waiting = (min(questions, QUESTIONS) + shown * longest) * model.width * model.dtype.itemsize
    logits = 4 * min(longest, 512) * min(unembedding.block, unembedding.words) * 8
    return 2 * waiting + logits + unembedding.block * model.width * 4 + shown * longest * 1000


def lens_reads(longest: int, images: int, questions: int, plan: Plan) -> int:
    """Rows that meet the whole vocabulary at each state: once for their words; four times where they are compared with the last."""
    shown = min(images, plan.lens_images)
    return shown * longest + 4 * min(questions, QUESTIONS)


def _of_samples(values: Iterable[tuple[int, int, float]]) -> list[Score]:
    """(sample, fold, value) of tokens: the mean of each sample, so that a long answer counts no more than a short one."""
    of: dict[tuple[int, int], list[float]] = {}
    for number, fold, value in values:
        of.setdefault((number, fold), []).append(value)
    return [Score(fold, math.fsum(found) / len(found), len(found)) for (_, fold), found in of.items()]


def _mean(scores: Sequence[Score]) -> Value:
    if not scores:
        return Value.undefined(0, "no rows")
    return Value(math.fsum(score.value for score in scores) / len(scores), sum(score.n for score in scores))


def _record(read: Read) -> dict[str, Any]:
    fields = read._asdict()
    del fields["number"], fields["fold"]
    return fields | {"variant": "raw"}


def _decision(heard: Heard) -> dict[str, Any]:
    own = {name: getattr(heard, name) for name in ("sample", "layer", "word", "rank", "log_odds", "kl")}
    return own | {"variant": "raw", "p": math.exp(heard.log_p)}
