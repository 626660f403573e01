"""Measures as a user would write them."""

import torch

from medlens import Value


def mean_norm(x):
    return x.norm(dim=1).mean()


def moved(x, y, scale=1.0):
    return scale * float((y - x).norm() / x.norm())


def with_a_note(x):
    return Value(1.0, len(x), "of one's own")


def fails(x):
    raise ZeroDivisionError("too few rows")


def speaks(x):
    return "a word"


def nothing(x):
    return torch.nan


def three(x, y, z):
    return 0.0


def anisotropy(x):
    return 0.0
