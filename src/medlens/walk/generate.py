"""Free answers: one by one through transformers' own generation, or many at once through packs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from medlens import hooks
from medlens.models.base import Model
from medlens.plan import Plan
from medlens.types import Answer, Sample, Tokens
from medlens.walk.cases import Case, Prompt, arguments, cases
from medlens.walk.forward import prepare


@dataclass(frozen=True)
class Decoding:
    """How an answer is written. temperature 0: greedily; above 0: drawn with `seed` from the smallest set of tokens that holds
    `top_p` of the probability. stop: words at which the answer ends; neither they nor what follows is part of it."""

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0


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
    drawn = {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
    stopped = {"stopping_criteria": [_stopper(model, len(prompt.tokens), decoding.stop)]}
    with model.whole(), hooks.evaluation(model.module), torch.random.fork_rng(enabled=bool(decoding.temperature)):
        if decoding.temperature:
            torch.manual_seed(decoding.seed)
        out = model.module.generate(
            **called, attention_mask=torch.ones_like(called["input_ids"]), max_new_tokens=decoding.max_new_tokens,
            num_beams=1, output_logits=True, return_dict_in_generate=True, **(stopped if decoding.stop else {}),
            **(drawn if decoding.temperature else {"do_sample": False}),
        )  # fmt: skip
    new = out.sequences[0, len(prompt.tokens) :].tolist()
    logprobs = [float(logits[0].float().log_softmax(-1)[i]) for logits, i in zip(out.logits, new, strict=True)]
    return _answer(model, new, logprobs, decoding.stop)


def _stopper(model: Model, prompt: int, stop: Sequence[str]) -> Callable[..., torch.Tensor]:
    """Ends generation when a stop word is in the text. (transformers' own `stop_strings` fails on word-level tokenizers.)"""

    def said_one(ids: torch.Tensor, _scores: object, **_: object) -> torch.Tensor:
        text = model.tokenizer.decode(ids[0, prompt:], skip_special_tokens=True)
        return torch.tensor([any(word in text for word in stop)], device=ids.device)

    return said_one


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
    with model.whole(), hooks.evaluation(model.module):
        for _ in range(max_new_tokens):
            order = {id(prompt): k for k, prompt in grown.items()}
            for case in cases(model, list(grown.values())):
                for prompt, said in zip(case.prompts, _next(model, case), strict=True):
                    k = order[id(prompt)]
                    words[k].append(said)
                    grown[k] = _longer(model, prompt, said[0])
                    unsayable = said[0] == model.image_token_id  # an untrained model's: nothing can be read on from there
                    if said[0] in ends or unsayable or len(words[k]) == max_new_tokens:
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


def _answer(model: Model, new: list[int], logprobs: list[float], stop: Sequence[str] = ()) -> Answer:
    text = model.tokenizer.decode(new, skip_special_tokens=True)
    cut = min((text.find(word) for word in stop if word in text), default=None)
    return Answer(text[:cut].strip(), new, logprobs, ended=cut is not None or new[-1] in _ends(model))
