"""The first phase of a study: every prompt's answer, gone on with where it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from medlens._prepare import Prepared
from medlens.models import prompt as prompts_
from medlens.types import Answer
from medlens.unfinished import Unfinished
from medlens.walk.cases import Prompt
from medlens.walk.generate import answer_prompt, answers, decoding_of


def answer_prompts(
    prepared: Prepared, prompts: Sequence[Prompt], work: Unfinished, tick: Callable[[], None]
) -> tuple[Sequence[Answer | None], list[Prompt]]:
    """Each prompt's answer (None where the data are to give it and do not, and with protocol "published", which measures prompts
    alone), and the prompts with the answers behind them. What is
    written already is not asked again."""
    if prepared.plan.protocol == "published":
        for _ in prompts:
            tick()
        return [None] * len(prompts), list(prompts)
    found = _given(prompts) if prepared.plan.answers == "given" else work.answers()
    for _ in found:
        tick()
    if rest := prompts[len(found) :]:
        found = [*found, *_generated(prepared, rest, work, tick)]
    return found, told(prepared, prompts, found)


def _given(prompts: Sequence[Prompt]) -> list[Answer | None]:
    return [None if prompt.sample.answer is None else Answer(prompt.sample.answer) for prompt in prompts]


def _generated(prepared: Prepared, prompts: Sequence[Prompt], work: Unfinished, tick: Callable[[], None]) -> list[Answer]:
    """One by one; of a model that is streamed all at once, because every token reads all of its weights."""
    model, decoding = prepared.model, decoding_of(prepared.plan)
    if model.weights is not None:
        found = answers(model, prompts, decoding, tick, work.scratch)
        for said in found:
            work.add_answer(said)
        return found
    found = []
    for prompt in prompts:
        found.append(answer_prompt(model, prompt, decoding))
        work.add_answer(found[-1])
        tick()
    return found


def told(prepared: Prepared, prompts: Sequence[Prompt], answers: Sequence[Answer | None]) -> list[Prompt]:
    """The prompts with their answers behind them."""
    read = lambda prompt, said: prompts_.read(prepared.model, prompt.sample, prompt.look, str(said))
    return [replace(p, tokens=read(p, said)) if said else p for p, said in zip(prompts, answers, strict=True)]
