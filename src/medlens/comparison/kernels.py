"""How alike the states of two models are, layer by layer: debiased linear CKA of the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from medlens.errors import BadRun
from medlens.store import STATES as FILE
from medlens.store import Run

ROWS = 1024  # rows that enter: all pairs of layers are compared, and a kernel has the square of them
CONSTANT = 1e-12  # centred sum of squares over the raw one, below which rows do not vary


class Heat(NamedTuple):
    """CKA of every state of the first run (rows) with every one of the other (columns), for one group of tokens."""

    tokens: str
    other: str
    n: int
    first_layers: tuple[int, ...]
    other_layers: tuple[int, ...]
    values: NDArray[np.float64]


def centred_kernel(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """The linear kernel of rows x (n, d), centred so that products of two are unbiased, of norm 1: (n * n,). NaN where the rows do
    not vary, or n is below 4.

    The product of two such kernels is debiased CKA (Kornblith et al. 2019, with the estimator of Song et al. 2012, in the form of
    Székely and Rizzo 2014): about 0 for unrelated rows, where plain CKA is about d / (n + d).
    """
    n, raw = len(x), np.asarray(x, dtype=np.float64)
    z = raw - raw.mean(axis=0)
    if n < 4 or np.square(z).sum() <= CONSTANT * np.square(raw).sum():
        return np.full(n * n, np.nan)
    kernel = z @ z.T
    np.fill_diagonal(kernel, 0)
    sums = kernel.sum(axis=0)
    kernel += sums.sum() / ((n - 1) * (n - 2)) - (sums[:, None] + sums[None, :]) / (n - 2)
    np.fill_diagonal(kernel, 0)
    return kernel.ravel() / np.linalg.norm(kernel)


def cka_between(first: Run, other: Run, name: str) -> tuple[list[Heat], list[str]]:
    """CKA of the states that both runs hold, by group of tokens, and why others are left out. Raises BadRun for a damaged file."""
    for run in (first, other):
        if not (run.path / FILE).is_file():
            return [], [f"no CKA between models: {run.path.name} holds no {FILE}"]
    if first.manifest["data"]["fingerprint"] != other.manifest["data"]["fingerprint"]:
        return [], [f"no CKA between models: {first.path.name} and {other.path.name} are of different data"]
    with _States(first.path / FILE) as mine, _States(other.path / FILE) as theirs:
        heats, notes = [], []
        for tokens in ("image", "text"):
            same = _same_rows(mine, theirs, tokens)
            if isinstance(same, str):
                notes.append(f"no CKA between models for {tokens} tokens: {same}")
            else:
                heats.append(_heat(mine, theirs, tokens, name, same))
    return heats, notes


class _States:
    """An open file of states: tensors image/07 (n, d) and priorities/image (n,), by which rows are known."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _States:
        try:
            self._file = safe_open(self._path, framework="np")
        except (OSError, SafetensorError) as e:
            raise BadRun(f"{self._path} is damaged: {e}") from e
        self.names = set(self._file.keys())
        return self

    def __exit__(self, *_: object) -> None:
        del self._file

    def get(self, name: str) -> NDArray[np.generic]:
        return self._file.get_tensor(name)

    def layers(self, tokens: str) -> list[int]:
        return sorted(int(name.partition("/")[2]) for name in self.names if name.startswith(f"{tokens}/"))


Rows = tuple[NDArray[np.int64], NDArray[np.int64]]


def _same_rows(mine: _States, theirs: _States, tokens: str) -> Rows | str:
    """Where the same rows are in both, or why they are not to be compared. Each run keeps the rows of lowest priority, so those of
    the shorter list must all be in the longer one: else sample and position do not name the same tokens in both models."""
    name = f"priorities/{tokens}"
    if name not in mine.names or name not in theirs.names:
        return "a run kept no states of them"
    keys = mine.get(name), theirs.get(name)
    common, one, two = np.intersect1d(*keys, return_indices=True)
    if len(common) < min(map(len, keys)):
        return f"only {len(common)} of {min(map(len, keys))} rows are in both: the models cut prompts into tokens differently"
    if len(common) < 4:
        return f"{len(common)} rows, four are needed"
    return one[:ROWS], two[:ROWS]  # common is sorted: the lowest priorities


def _heat(mine: _States, theirs: _States, tokens: str, name: str, same: Rows) -> Heat:
    layers = mine.layers(tokens), theirs.layers(tokens)
    kernels = np.stack([centred_kernel(mine.get(f"{tokens}/{layer:02d}")[same[0]]) for layer in layers[0]])  # pyright: ignore
    columns = [kernels @ centred_kernel(theirs.get(f"{tokens}/{layer:02d}")[same[1]]) for layer in layers[1]]  # pyright: ignore
    return Heat(tokens, name, len(same[0]), tuple(layers[0]), tuple(layers[1]), np.stack(columns, axis=1))
