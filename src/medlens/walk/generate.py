"""Free answers: one by one through transformers' own generation, or many at once, a token of all of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medlens import hooks
from medlens.models.base import Model
from medlens.models.prompt import as_batch
from medlens.plan import Plan
from medlens.types import Answer, Sample
from medlens.walk.cases import Prompt, arguments, cases
from medlens.walk.forward import prepare
from medlens.walk.speak import can_speak, speak


@dataclass(frozen=True)
class Decoding:
    """How an answer is written. temperature 0: greedily; above 0: drawn with `seed` from the smallest set of tokens that holds
    `top_p` of the probability. stop: words at which the answer ends; neither they nor what follows is part of it."""

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0

    def as_asked(self) -> dict[str, Any]:
        """As transformers' `generate` is asked for it; `seed` and `stop` are seen to here."""
        drawn = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        return {"max_new_tokens": self.max_new_tokens, "num_beams": 1, **(drawn if self.temperature else {"do_sample": False})}


def decoding_of(plan: Plan) -> Decoding:
    """The part of a plan that says how answers are written."""
    return Decoding(plan.max_new_tokens, plan.temperature, plan.top_p, plan.stop, plan.seed)


def answer(
    model: Model,
    sample: Sample,
    max_new_tokens: int = 32,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    seed: int = 0,
) -> Answer:
    """The model's answer to a sample: a `str` that also knows its token `ids`, their `logprobs` (natural logarithm, of the model
    itself at temperature 1), and whether it `ended` by itself.

    At most `max_new_tokens` tokens, greedy unless a `temperature` is given (see `Decoding`); the end token is among the ids, not in
    the text. Raises BadImage and BadInput.
    """
    return answer_prompt(model, prepare(model, sample), Decoding(max_new_tokens, temperature, top_p, tuple(stop), seed))


def answer_prompt(model: Model, prompt: Prompt, decoding: Decoding) -> Answer:
    """`answer` for a sample that is prepared already."""
    called = arguments(model, cases(model, [prompt])[0])
    stopped = {"stopping_criteria": [_stopper(model, len(prompt.tokens), decoding.stop)]}
    with model.whole(), hooks.evaluation(model.module), torch.random.fork_rng(enabled=bool(decoding.temperature)):
        if decoding.temperature:
            torch.manual_seed(decoding.seed)
        out = model.module.generate(
            **called, attention_mask=torch.ones_like(called["input_ids"]), output_logits=True, return_dict_in_generate=True,
            **decoding.as_asked(), **(stopped if decoding.stop else {}),
        )  # fmt: skip
    new = out.sequences[0, len(prompt.tokens) :].tolist()
    logprobs = [float(logits[0].float().log_softmax(-1)[i]) for logits, i in zip(out.logits, new, strict=True)]
    return _answer(model, new, logprobs, decoding.stop)


def _stopper(model: Model, prompt: int, stop: Sequence[str]) -> Callable[..., Tensor]:
    """Ends generation when a stop word is in the text. (transformers' own `stop_strings` fails on word-level tokenizers.)"""

    def said_one(ids: Tensor, _scores: object, **_: object) -> Tensor:
        return torch.tensor([_holds(model, ids[0, prompt:].tolist(), stop)], device=ids.device)

    return said_one


def answers(
    model: Model,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    tick: Callable[[], None] = lambda: None,
    spill: Path | None = None,
) -> list[Answer]:
    """What `answer_prompt` gives for each prompt, to rounding, written together: questions on an image behind one prefix, nothing
    computed twice, and of a streamed model the weights read once for each new token of all (see `speak`, also for `spill` and for
    what it raises). Draws are the same too, whatever a prompt is packed with. `tick` is called once for each prompt that is done.

    A decoder that keeps more than keys and values of earlier tokens (recurrent blocks, say: see `can_speak`) answers one by one.
    Where a configuration has a window that its code never looks at, `answer_prompt` forgets what lies outside of it, as
    transformers' cache does; here, as in the model's forward, it is seen.
    """
    if not can_speak(model):
        alone = []
        for prompt in prompts:
            alone.append(answer_prompt(model, prompt, decoding))
            tick()
        return alone
    rules = _rules(model, decoding)
    asked = [replace(prompt) for prompt in prompts]  # each an object of its own, if the same is asked twice
    writers = {id(prompt): _Writer(model, prompt, decoding, rules) for prompt in asked}

    def say(prompt: Prompt, logits: Tensor) -> int | None:
        writer = writers[id(prompt)]
        token = writer.write(logits)
        if not writer.done:
            return token
        tick()
        return None

    speak(model, cases(model, asked), say, spill)
    return [_answer(model, w.ids, w.logprobs, decoding.stop) for w in writers.values()]


def answer_together(
    model: Model, prompts: Sequence[Prompt], max_new_tokens: int = 8, tick: Callable[[], None] = lambda: None
) -> list[Answer]:
    """`answers`, greedy."""
    return answers(model, prompts, Decoding(max_new_tokens), tick)


class _Writer:
    """One answer while it is written, by transformers' own rules, and with the draws that `generate` makes with this seed."""

    def __init__(self, model: Model, prompt: Prompt, decoding: Decoding, rules: Any) -> None:
        self._model, self._prompt, self._decoding = model, prompt.tokens.ids, decoding
        self._processors = model.module._get_logits_processor(rules, len(self._prompt), device=model.device)
        self._drawn = torch.Generator(model.device).manual_seed(decoding.seed) if decoding.temperature else None
        self.ids: list[int] = []
        self.logprobs: list[float] = []

    def write(self, logits: Tensor) -> int:
        """The next token, given its logits (V,)."""
        scores = logits[None].clone()
        if self._processors:
            scores = self._processors(as_batch((*self._prompt, *self.ids), logits.device), scores)
        drawn = scores.argmax() if self._drawn is None else torch.multinomial(scores.softmax(-1), 1, generator=self._drawn)
        self.ids.append(int(drawn))
        self.logprobs.append(float(logits.log_softmax(-1)[self.ids[-1]]))
        return self.ids[-1]

    @property
    def done(self) -> bool:
        """The end token, the cap, or a stop word."""
        full = len(self.ids) == self._decoding.max_new_tokens
        return full or self.ids[-1] in _ends(self._model) or _holds(self._model, self.ids, self._decoding.stop)


def _rules(model: Model, decoding: Decoding) -> Any:
    """What `generate` would go by: the model's own generation configuration (a repetition penalty, ...) and what is asked."""
    rules, _ = model.module._prepare_generation_config(None, **decoding.as_asked())
    model.module._prepare_special_tokens(rules, kwargs_has_attention_mask=True, device=model.device)
    return rules


def _holds(model: Model, ids: Sequence[int], stop: Sequence[str]) -> bool:
    """Whether a stop word is in the text."""
    if not stop:
        return False
    text = model.tokenizer.decode(ids, skip_special_tokens=True)
    return any(word in text for word in stop)


def _ends(model: Model) -> list[int]:
    ends = model.module.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [ends]


def _answer(model: Model, new: list[int], logprobs: list[float], stop: Sequence[str] = ()) -> Answer:
    text = model.tokenizer.decode(new, skip_special_tokens=True)
    cut = min((text.find(word) for word in stop if word in text), default=None)
    return Answer(text[:cut].strip(), new, logprobs, ended=cut is not None or new[-1] in _ends(model))
