"""The first phase of a study: every prompt's answer, gone on with where it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from medlens._prepare import Prepared
from medlens.models import prompt as prompts_
from medlens.types import Answer
from medlens.unfinished import Unfinished
from medlens.walk.cases import Prompt
from medlens.walk.generate import answer_prompt, decoding_of


def answer_prompts(
    prepared: Prepared, prompts: Sequence[Prompt], work: Unfinished, tick: Callable[[], None]
) -> tuple[list[Answer | None], list[Prompt]]:
    """Each prompt's answer (None where the data are to give it and do not), and the prompts with the answers behind them. What is
    written already is not asked again."""
    known = work.answers()
    answers = []
    for k, prompt in enumerate(prompts):
        answers.append(_answer(prepared, prompt, work) if k >= len(known) else known[k])
        tick()
    return answers, [_told(prepared, prompt, said) for prompt, said in zip(prompts, answers, strict=True)]


def _answer(prepared: Prepared, prompt: Prompt, work: Unfinished) -> Answer | None:
    if prepared.plan.answers == "given":
        return None if prompt.sample.answer is None else Answer(prompt.sample.answer)
    said = answer_prompt(prepared.model, prompt, decoding_of(prepared.plan))
    work.add_answer(said)
    return said


def _told(prepared: Prepared, prompt: Prompt, said: Answer | None) -> Prompt:
    return replace(prompt, tokens=prompts_.read(prepared.model, prompt.sample, prompt.look, str(said))) if said else prompt
