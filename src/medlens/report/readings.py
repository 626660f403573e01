"""How each measure is shown: its title, what it means, what to beware of, where it is from, and in which section of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from medlens.medical import KINDS


@dataclass(frozen=True)
class Section:
    """A part of the report: its anchor, its title, and what it asks."""

    name: str
    title: str
    asks: str


SECTIONS = (
    Section(
        "linear",
        "How linear is each block",
        "Could a matrix stand in for the block? In sample the answer is flattering where rows are few; held out, on images that "
        "the matrix was not fitted on, it is not; adjusted, the score of wrongly paired images is taken off.",
    ),
    Section("spread", "How spread out are the states", "Do the tokens fill their space, or lie along a few directions of it?"),
    Section("dimensions", "On how many dimensions do they lie", "How many coordinates would be enough, near each token?"),
    Section(
        "contextual",
        "How contextual are the tokens",
        "How far is a token's state its own, and how far that of what surrounds it? Cosines are high by themselves where all "
        "states share a direction, so each is shown with its baseline, and with the baseline taken off.",
    ),
    Section(
        "lens",
        "What do the states say",
        "The logit lens: the final norm and the head put on every state, as if the model ended there. What it cannot read is not "
        "therefore absent: early states may hold it in other directions.",
    ),
    Section("own", "Measures of your own", "Named in the plan."),
)


@dataclass(frozen=True)
class Reading:
    """sides: token groups that have a chart. behind: other measures drawn thin in the same chart, each with the word at its end."""

    title: str
    of_pairs: bool
    meaning: str
    beware: str
    source: str
    section: str = "own"
    behind: Mapping[str, str] = field(default_factory=dict)
    sides: tuple[str, ...] = ("image", "text")


def _linear() -> dict[str, Reading]:
    source = "Razzhigaev et al. 2024, Your Transformer is Secretly Linear"
    held_out = "Stone 1974; the score: Razzhigaev et al. 2024"
    below = "Below 0 the map is worse than a constant: with few rows that is chance. Undefined below as many rows as columns."
    exact = "Patches of one image are alike; the floor knows that, because whole images are permuted. It is one permutation."
    return {
        "linearity": Reading(
            "Linearity",
            True,
            "The share of a block's output that the best linear map of its input explains. 1: a matrix could replace it.",
            "Fitted and scored on the same rows, so it is too high where rows are few; undefined where any data would score 1.",
            source,
            "linear",
        ),
        "held_out_linearity": Reading(
            "Linearity, held out",
            True,
            "Linearity, but each fold of whole images is scored with a map that was fitted on the other folds.",
            below,
            held_out,
            "linear",
        ),
        "linearity_adjusted": Reading(
            "Linearity above its floor",
            True,
            "Linearity in sample, rescaled so that 0 is its floor (what it scores where whole images are permuted, so that "
            "inputs meet the outputs of other images) and 1 stays 1.",
            exact,
            "after Theil 1961",
            "linear",
        ),
        "linearity_of_update": Reading(
            "Linearity of the update",
            True,
            "Linearity of what the block adds to its input: the residual stream, which is linear by construction, is taken out.",
            "Fitted and scored on the same rows, so it is too high where rows are few.",
            "Razzhigaev et al. 2024",
            "linear",
        ),
        "held_out_linearity_of_update": Reading(
            "Linearity of the update, held out",
            True,
            "Linearity of the update on images that the map was not fitted on: the score to believe.",
            below,
            held_out,
            "linear",
        ),
        "linearity_of_update_adjusted": Reading(
            "Linearity of the update above its floor",
            True,
            "Linearity of the update in sample, rescaled so that 0 is its floor (what it scores where whole images are permuted) "
            "and 1 stays 1.",
            exact,
            "after Theil 1961",
            "linear",
        ),
        "cka": Reading(
            "Similarity before and after a block (CKA)",
            True,
            "How alike the arrangement of the tokens is before and after a block, but for rotation. 0: unrelated.",
            "Debiased, so unrelated data score about 0 (slightly negative values happen). A few large rows can decide it.",
            "Kornblith et al. 2019; Song et al. 2012",
            "linear",
        ),
    }


def _spread() -> dict[str, Reading]:
    return {
        "anisotropy": Reading(
            "Anisotropy",
            False,
            "The share of all variance that lies along one direction.",
            "A handful of massive activations can set it: compare with the dashed line. Depends on the number of rows.",
            "Razzhigaev et al. 2024, The Shape of Learning",
            "spread",
        ),
        "participation_ratio": Reading(
            "Participation ratio",
            False,
            "How many directions share the variance, counted by its squares.",
            "Depends on the number of rows: compare image and text only at equal n.",
            "Gao et al. 2017",
            "spread",
        ),
        "effective_rank": Reading(
            "Effective rank",
            False,
            "How many directions share the variance, counted by its entropy: small ones weigh more than by squares.",
            "Depends on the number of rows: compare image and text only at equal n.",
            "after Roy & Vetterli 2007 (there: of singular values)",
            "spread",
        ),
        "mean_cosine": Reading(
            "Mean cosine",
            False,
            "How alike in direction two tokens of the group are, on average over all pairs.",
            "High values often come from one common direction, not from like meaning.",
            "Ethayarajh 2019",
            "spread",
        ),
        "mean_cosine_between": Reading(
            "Mean cosine between images",
            False,
            "Mean cosine over pairs from different images only: the baseline of every other cosine.",
            "",
            "Ethayarajh 2019",
            "spread",
        ),
    }


def _dimensions() -> dict[str, Reading]:
    return {
        "intrinsic_dimension": Reading(
            "Intrinsic dimension (TwoNN)",
            False,
            "On how many coordinates the tokens lie, judged from the distances to each one's two nearest neighbours.",
            "Biased low from about 10 on. Neighbouring patches of one image are not independent. Its interval is wide by design.",
            "Facco et al. 2017",
            "dimensions",
        ),
        "intrinsic_dimension_between": Reading(
            "Intrinsic dimension, neighbours from other images",
            False,
            "Intrinsic dimension where a token's neighbours must come from other images than its own.",
            "Where it differs from the one among all tokens, that one saw single images rather than what they have in common.",
            "after Facco et al. 2017",
            "dimensions",
        ),
    }


def _contextual() -> dict[str, Reading]:
    cosine, mev = {"baseline_cosine": "baseline"}, {"baseline_mev": "baseline"}
    less = "0: no more than any two tokens of different samples. Small where the baseline is near 1."
    return {
        "self_similarity": Reading(
            "Self-similarity",
            False,
            "How alike the states of one token are in different contexts: 1 where context changes nothing.",
            "High wherever all states point one way: read it above its baseline (the thin line).",
            "Ethayarajh 2019",
            "contextual",
            cosine,
        ),
        "adjusted_self_similarity": Reading(
            "Self-similarity above its baseline",
            False,
            "What is left of self-similarity when the baseline is taken off.",
            less,
            "Ethayarajh 2019",
            "contextual",
        ),
        "intra_similarity": Reading(
            "Intra-similarity",
            False,
            "How alike the tokens of one sample are to their mean.",
            "High wherever all states point one way, and for few tokens: read it above its baseline (the thin line).",
            "Ethayarajh 2019",
            "contextual",
            cosine,
        ),
        "adjusted_intra_similarity": Reading(
            "Intra-similarity above its baseline",
            False,
            "What is left of intra-similarity when the baseline is taken off.",
            less,
            "Ethayarajh 2019",
            "contextual",
        ),
        "mev": Reading(
            "Maximum explainable variance (MEV)",
            False,
            "The share of one token's states, over contexts, that a single direction explains. Uncentred, as in the paper.",
            "Uncentred it nearly repeats self-similarity. Depends on the number of contexts, so its baseline has as many.",
            "Ethayarajh 2019",
            "contextual",
            mev,
        ),
        "adjusted_mev": Reading(
            "MEV above its baseline",
            False,
            "What is left of MEV when the baseline is taken off.",
            less,
            "Ethayarajh 2019",
            "contextual",
        ),
        "mev_centred": Reading(
            "MEV, centred",
            False,
            "MEV about the mean state: the share of what context changes that lies along one direction.",
            "At least 1 / (contexts - 1) for any data.",
            "Ethayarajh 2019 (as in the code of the paper)",
            "contextual",
        ),
    }  # fmt: skip


def _lens() -> dict[str, Reading]:
    source, answer = "nostalgebraist 2020, interpreting GPT: the logit lens", ("answer",)
    first = "Only the first token of the answer, as it was given; a long answer may be decided later, or word by word."
    return {
        "answer_top": Reading(
            "The answer's first word is on top",
            False,
            "In what share of the questions the token before the answer already says its first word, more likely than any other.",
            first,
            source,
            "lens",
            sides=answer,
        ),
        "answer_log_odds": Reading(
            "Log-odds of the answer's first word",
            False,
            "log p - log(1 - p), in nats, the mean of all questions: above 0 the word has more than half of the probability.",
            first,
            source,
            "lens",
            sides=answer,
        ),
        "answer_rank": Reading(
            "Rank of the answer's first word",
            False,
            "The logarithm to base 2 of its rank, the mean of all questions: 0 is the likeliest, 10 the thousandth.",
            first,
            source,
            "lens",
            sides=answer,
        ),
        "lens_kl": Reading(
            "What is lost by stopping here (KL)",
            False,
            "KL(last state || this one), in nats: how far the words of a state are from those of the last one, where it is 0.",
            "Large where a state speaks in other directions than the head, although it may know the same.",
            "Belrose et al. 2023, Eliciting Latent Predictions",
            "lens",
            sides=("text", "answer"),
        ),
        "lens_entropy": Reading(
            "Entropy of the words",
            False,
            "In nats: 0 where one word has all of the probability, the logarithm of the vocabulary where all words are alike.",
            "The image's tokens were never trained to say a word: a low entropy there is no proof that it means one.",
            source,
            "lens",
            sides=("image", "text", "answer"),
        ),
        "medical_words": Reading(
            "Medical words",
            False,
            "The share of the tokens whose likeliest word is in one of the lists of medical words. Thin: those of each kind, and "
            "the share of such words in the vocabulary.",
            "A medical word need not be the right one: another table says which vary with the image. A model of random weights "
            "has favourite words too, and they may be medical: compare the null of weights, if it was walked. A word of several "
            "pieces counts only if its first piece begins no other words.",
            "the lists of this package",
            "lens",
            {"medical_words_floor": "vocabulary", **{f"{kind}_words": kind for kind in KINDS}},
        ),
        "medical_weight": Reading(
            "Medical words, by probability",
            False,
            "The share that medical words have of the probability of the five likeliest.",
            "Of the first five alone; what follows them is not kept.",
            "the lists of this package",
            "lens",
            {"medical_words_floor": "vocabulary"},
        ),
    }


READINGS: dict[str, Reading] = {**_linear(), **_spread(), **_dimensions(), **_contextual(), **_lens()}
SCALES = {  # shown together, in one chart: the number of rows is halved
    "intrinsic_dimension": "all",
    "intrinsic_dimension_of_half": "1/2",
    "intrinsic_dimension_of_quarter": "1/4",
    "intrinsic_dimension_of_eighth": "1/8",
}
FLOORS = {  # no line of their own: the null of pairs, on the scale of these charts, is the same number
    "linearity_floor": "linearity",
    "linearity_of_update_floor": "linearity_of_update",
}
BEHIND = {name for reading in READINGS.values() for name in reading.behind} | {*FLOORS}


def reading_of(measure: str, is_pair: bool) -> Reading:
    """Of a measure that we have never heard of: the user's own."""
    return READINGS.get(measure) or Reading(measure, is_pair, "A measure of your own.", "", "your own")
