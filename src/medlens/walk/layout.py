"""Which images of a study belong to which fold, and whom each is paired with when the floor of a score is sought."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medlens.measures.floor import in_rings
from medlens.walk.cases import Case, folds_of


@dataclass(frozen=True)
class Followed:
    """The question asked of most images (ties: the first), whose tokens can be followed from image to image.

    ids, texts: of its tokens of group `text`. images: of how many it is asked; questions: how many different ones there are.
    patches: the number of image tokens that most images have: only among those is one place of the grid the same.
    """

    ids: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    images: int = 0
    questions: int = 0
    patches: int = 0


@dataclass(frozen=True)
class Layout:
    """folds: how many; fold_of: of each image. number_of: of each image, in the order of the study. partner_of: another image of
    the same fold, whose outputs stand in for its own; where a fold has only one image, it has none. followed: see `Followed`."""

    folds: int = 1
    fold_of: Mapping[str, int] = field(default_factory=dict)
    number_of: Mapping[str, int] = field(default_factory=dict)
    partner_of: Mapping[str, str] = field(default_factory=dict)
    followed: Followed = Followed()


def layout_of(laid: Sequence[Case], folds: int) -> Layout:
    """Of all cases of a study (not of a share of them)."""
    fold_of = folds_of(laid, folds)
    return Layout(folds, fold_of, {image: k for k, image in enumerate(fold_of)}, partners(fold_of), followed_of(laid))


def followed_of(laid: Sequence[Case]) -> Followed:
    """Of all cases of a study."""
    images: dict[tuple[int, ...], set[str]] = {}
    texts: dict[tuple[int, ...], tuple[str, ...]] = {}
    patches: dict[str, int] = {}
    for case in laid:
        for prompt in case.prompts:
            places = prompt.tokens.where("text")
            ids = tuple(prompt.tokens.ids[i] for i in places)
            images.setdefault(ids, set()).add(case.image)
            texts.setdefault(ids, tuple(prompt.tokens.texts[i] for i in places))
            patches.setdefault(case.image, prompt.tokens.groups.count("image"))
    if not images:
        return Followed()
    most = max(images, key=lambda ids: len(images[ids]))
    return Followed(most, texts[most], len(images[most]), len(images), Counter(patches.values()).most_common(1)[0][0])


def partners(fold_of: Mapping[str, int]) -> dict[str, str]:
    """Images of a fold change places in twos, as they come; where one is left over, the last three in a ring. So a permutation of
    whole images is made of small pieces, which stay together when the study is shared out."""
    return {image: ring[k - 1] for ring in rings(fold_of) for k, image in enumerate(ring) if len(ring) > 1}


def rings(fold_of: Mapping[str, int]) -> list[list[str]]:
    """The images of each fold in twos, the last of them in threes where they are odd."""
    of_fold: dict[int, list[str]] = defaultdict(list)
    for image, fold in fold_of.items():
        of_fold[fold].append(image)
    return [ring for fold in sorted(of_fold) for ring in in_rings(of_fold[fold])]
