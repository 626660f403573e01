"""Free answers: one by one through transformers' own generation, or many at once through packs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from medlens import hooks
from medlens.models.base import Model
from medlens.types import Answer, Sample, Tokens
from medlens.walk.cases import Case, Prompt, arguments, cases
from medlens.walk.forward import prepare


def answer(model: Model, sample: Sample, max_new_tokens: int = 32) -> Answer:
    """The model's greedy answer to a sample: a `str` that also knows its token `ids`, their `logprobs` (natural logarithm), and
    whether it `ended` by itself.

    At most `max_new_tokens` tokens; the end token is among the ids, not in the text. Raises BadImage and BadInput.
    """
    return answer_prompt(model, prepare(model, sample), max_new_tokens)


def answer_prompt(model: Model, prompt: Prompt, max_new_tokens: int) -> Answer:
    """`answer` for a sample that is prepared already."""
    called = arguments(model, cases(model, [prompt])[0])
    with hooks.evaluation(model.module):
        out = model.module.generate(
            **called, attention_mask=torch.ones_like(called["input_ids"]), max_new_tokens=max_new_tokens, do_sample=False,
            num_beams=1, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    new = out.sequences[0, len(prompt.tokens) :].tolist()
    logprobs = [float(logits[0].float().log_softmax(-1)[i]) for logits, i in zip(out.logits, new, strict=True)]
    return _answer(model, new, logprobs)


def answer_together(
    model: Model, prompts: Sequence[Prompt], max_new_tokens: int = 8, tick: Callable[[], None] = lambda: None
) -> list[Answer]:
    """The greedy answers to many prompts, all questions on an image behind one prefix: what `answer_prompt` gives, to rounding.

    Every new token costs a whole pass, as nothing is cached: for answers of a few words to many questions. `tick` is called once
    for each prompt that is done.
    """
    words: list[list[tuple[int, float]]] = [[] for _ in prompts]
    grown = {k: replace(prompt) for k, prompt in enumerate(prompts)}  # what has not ended, each an object of its own
    ends = _ends(model)
    with hooks.evaluation(model.module):
        for _ in range(max_new_tokens):
            order = {id(prompt): k for k, prompt in grown.items()}
            for case in cases(model, list(grown.values())):
                for prompt, said in zip(case.prompts, _next(model, case), strict=True):
                    k = order[id(prompt)]
                    words[k].append(said)
                    grown[k] = _longer(model, prompt, said[0])
                    if said[0] in ends or len(words[k]) == max_new_tokens:
                        del grown[k]
                        tick()
    return [_answer(model, [i for i, _ in said], [p for _, p in said]) for said in words]


def _next(model: Model, case: Case) -> list[tuple[int, float]]:
    """The likeliest next token of every prompt in a pack, and its log-probability."""
    last = [case.pack.rows(k)[-1] for k in range(len(case.prompts))]
    logits = model.module(**arguments(model, case), use_cache=False).logits[0, last].float()
    best = logits.log_softmax(-1).max(-1)
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def _longer(model: Model, prompt: Prompt, token: int) -> Prompt:
    ids, groups, texts = prompt.tokens.ids, prompt.tokens.groups, prompt.tokens.texts
    return replace(prompt, tokens=Tokens((*ids, token), (*groups, "answer"), (*texts, model.tokenizer.decode([token]))))


def _ends(model: Model) -> list[int]:
    ends = model.module.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [ends]


def _answer(model: Model, new: list[int], logprobs: list[float]) -> Answer:
    text = model.tokenizer.decode(new, skip_special_tokens=True).strip()
    return Answer(text, new, logprobs, ended=new[-1] in _ends(model))
