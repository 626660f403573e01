"""What is explained: from the words a user gave to a target at a position of the prompt, with its name for a reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from medlens.errors import BadInput
from medlens.models import Model
from medlens.models.prompt import read
from medlens.models.words import word_id
from medlens.types import Answer, Group, Tokens
from medlens.walk.cases import Prompt
from medlens.walk.generate import Decoding, answers
from medlens.walk.target import Aim, EveryLogit, LogOdds, Target, Word

LONGEST = 16  # tokens of an answer that is generated
MARKS = "▁Ġ"


@dataclass(frozen=True)
class Aimed:
    """A target of a prompt. name: for a reader. note: what was decided on the way, if anything was."""

    prompt: Prompt
    aim: Aim
    name: str
    note: str = ""


def begin(model: Model, asked: Prompt, begun: str | None, closed: bool = False) -> Prompt:
    """The prompt, or with the first words of an answer behind it, which is left open: the model goes on from there. closed: the
    template ends the answer, as the published study had it. Raises BadInput for no words, and for closing what is not begun."""
    if begun is None:
        if closed:
            raise BadInput("what is read behind a closed answer needs one: give the words that begin it")
        return asked
    if not begun.strip():
        raise BadInput("the answer is begun with no words; leave --begun out, or give some")
    told = read(model, asked.sample, asked.look, begun)
    return replace(asked, tokens=told if closed else _upto(told, told.where("answer")[-1] + 1))


def own_answer(model: Model, prompt: Prompt) -> Answer:
    """What the model itself says, or goes on to say (greedy)."""
    return answers(model, [prompt], Decoding(LONGEST))[0]


def aimed(
    model: Model, prompt: Prompt, own: Answer, target: str | None, contrast: Sequence[str] | None, begun: str | None
) -> Aimed:
    """The one target. Without words from the user: the log-odds of the first token of the model's own answer, against all others.

    A word of several tokens is the sum of their log-probabilities, each behind those before it; of a contrast of such words, the
    tokens that differ first are compared. Raises BadInput for two targets, and for a word that the vocabulary cannot say."""
    if target is not None and contrast is not None:
        raise BadInput("give a target or a contrast, not both")
    last = len(prompt.tokens) - 1
    if contrast is not None:
        return _contrast(model, prompt, contrast, begun)
    if target is None:
        word = own.ids[0]
        return Aimed(prompt, LogOdds(Word(last, word)), f"log-odds of “{_text(model, word)}”, the first token of its own answer")
    try:
        return Aimed(prompt, LogOdds(Word(last, word_id(model, target))), f"log-odds of “{target}”")
    except BadInput as alone:
        spoken = _spoken(model, prompt, target, begun, alone)
    ids = spoken.tokens.ids[last + 1 :]
    said = Target(tuple(Word(last + k, word) for k, word in enumerate(ids)))
    pieces = ", ".join(_text(model, word) for word in ids)
    note = f"no one token says “{target}”: it is {len(ids)} tokens ({pieces}), whose log-probabilities are added"
    return Aimed(spoken, said, f"log p(“{target}”)", note)


def every_logit(prompt: Prompt) -> Aimed:
    """As published: the sum of all logits behind the prompt."""
    why = "no word is meant by this target; it rises with whatever lifts all words alike"
    return Aimed(prompt, EveryLogit(len(prompt.tokens) - 1), "the sum of all logits", why)


def every_token(model: Model, asked: Prompt, own: Answer) -> list[Aimed]:
    """Of each token of the question what follows on it there, and of each token of the model's own answer itself: the logarithm of
    its probability, read at the position that predicts it."""
    told = continued(model, asked, own.ids)
    ids, texts = told.tokens.ids, told.tokens.texts
    question = [(p, f"question: behind “{_plain(texts[p])}”, log p(“{_plain(texts[p + 1])}”)") for p in told.tokens.where("text")]
    answer = [(p - 1, f"answer: log p(“{_plain(texts[p])}”)") for p in range(len(asked.tokens), len(ids))]
    image = max(told.tokens.where("image"))
    return [Aimed(told, Target((Word(p, ids[p + 1]),)), name) for p, name in [*question, *answer] if p >= image]


def continued(model: Model, prompt: Prompt, ids: Sequence[int]) -> Prompt:
    """The prompt with these tokens of an answer behind it."""
    old, texts = prompt.tokens, model.tokenizer.convert_ids_to_tokens(list(ids))
    groups: list[Group] = ["answer"] * len(ids)
    return replace(prompt, tokens=Tokens((*old.ids, *ids), (*old.groups, *groups), (*old.texts, *texts)))


def _contrast(model: Model, prompt: Prompt, words: Sequence[str], begun: str | None) -> Aimed:
    if len(words) != 2 or not all(word.strip() for word in words):
        raise BadInput(f"a contrast is of two words, such as yes,no; got {', '.join(map(repr, words)) or 'none'}")
    last = len(prompt.tokens) - 1
    name = f"log p(“{words[0]}”) − log p(“{words[1]}”)"
    try:
        a, b = (word_id(model, word) for word in words)
        spoken, at, note = prompt, last, ""
    except BadInput as alone:
        spoken, other = (_spoken(model, prompt, word, begun, alone) for word in words)
        pairs = list(zip(spoken.tokens.ids[last + 1 :], other.tokens.ids[last + 1 :], strict=False))
        differs = next((k for k, (a, b) in enumerate(pairs) if a != b), None)
        if differs is None:
            raise BadInput(f"{words[0]!r} and {words[1]!r} do not differ in any token of {model.name}") from alone
        a, b = pairs[differs]
        spoken, at = replace(spoken, tokens=_upto(spoken.tokens, last + 1 + differs)), last + differs
        note = f"a word of several tokens: compared are the first that differ, “{_text(model, a)}” and “{_text(model, b)}”"
    if a == b:
        raise BadInput(f"a contrast is of two different words; got {words[0]!r} twice")
    return Aimed(spoken, Target((Word(at, a),), (Word(at, b),)), name, note)


def _spoken(model: Model, prompt: Prompt, word: str, begun: str | None, alone: BadInput) -> Prompt:
    """The prompt with the word behind it, in as many tokens as it takes. Raises `alone` where one of them is unknown."""
    answer = word if begun is None else f"{begun} {word}"
    told = read(model, prompt.sample, prompt.look, answer)
    places = told.where("answer")
    count = len(places) - (0 if begun is None else prompt.tokens.groups.count("answer"))
    ids = [told.ids[p] for p in places[-count:]] if places and count > 0 else []
    if not ids or model.tokenizer.unk_token_id in ids:
        raise alone
    return continued(model, prompt, ids)


def _upto(tokens: Tokens, end: int) -> Tokens:
    return Tokens(tokens.ids[:end], tokens.groups[:end], tokens.texts[:end])


def _text(model: Model, word: int) -> str:
    return _plain(model.tokenizer.convert_ids_to_tokens([word])[0])


def _plain(text: str) -> str:
    return text.lstrip(MARKS) or text
