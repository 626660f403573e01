"""Free answers, by transformers' own generation."""

from __future__ import annotations

import torch

from medlens import hooks
from medlens.models.base import Model
from medlens.models.prompt import as_batch
from medlens.types import Answer, Sample
from medlens.walk.cases import Prompt
from medlens.walk.forward import prepare


def answer(model: Model, sample: Sample, max_new_tokens: int = 32) -> Answer:
    """The model's greedy answer to a sample: a `str` that also knows its token `ids`, their `logprobs` (natural logarithm), and
    whether it `ended` by itself.

    At most `max_new_tokens` tokens; the end token is among the ids, not in the text. Raises BadImage and BadInput.
    """
    return answer_prompt(model, prepare(model, sample), max_new_tokens)


def answer_prompt(model: Model, prompt: Prompt, max_new_tokens: int) -> Answer:
    """`answer` for a sample that is prepared already."""
    ids = as_batch(prompt.tokens.ids, model.device)
    with hooks.evaluation(model.module):
        out = model.module.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **prompt.look.inputs, max_new_tokens=max_new_tokens,
            do_sample=False, num_beams=1, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    new = out.sequences[0, ids.shape[1] :].tolist()
    logprobs = [float(logits[0].float().log_softmax(-1)[i]) for logits, i in zip(out.logits, new, strict=True)]
    ends = model.module.generation_config.eos_token_id
    ended = new[-1] in (ends if isinstance(ends, list) else [ends])
    return Answer(model.tokenizer.decode(new, skip_special_tokens=True).strip(), new, logprobs, ended)
