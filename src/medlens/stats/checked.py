"""What rows must be before they are summed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from medlens.errors import BadInput, NotFinite

BATCH = 2048  # rows taken at a time, so that float64 copies stay small


def checked(x: Tensor) -> Tensor:
    """Rows x (n, d) of any float type. Raises BadInput for another shape, NotFinite for a NaN or infinity, naming its place."""
    x = torch.as_tensor(x).detach()
    if x.is_complex():
        raise BadInput("rows are real numbers; got complex ones")
    if x.ndim != 2 or x.shape[1] == 0:
        raise BadInput(f"rows are (n, d) with d > 0; got shape {tuple(x.shape)}")
    if not torch.isfinite(x.sum(dtype=torch.float64)) and not torch.isfinite(x).all():  # the sum is the faster look
        row, column = torch.nonzero(~torch.isfinite(x))[0].tolist()
        raise NotFinite(f"{x[row, column].item()} in row {row}, column {column}: nothing is averaged over it")
    return x if x.is_floating_point() else x.double()


def as_rows(x: Tensor) -> Tensor:
    """The same as float64."""
    return checked(x).double()


def batches(x: Tensor) -> Iterator[Tensor]:
    """Checked rows x, some at a time; none where there are none. Raises NotFinite where the sums of x^4 would overflow."""
    for batch in x.split(BATCH):
        if len(batch):
            squares = batch.double().square().sum(1)
            if not torch.isfinite(squares @ squares):
                raise NotFinite("rows so large that their squares overflow float64; rescale them")
            yield batch


def need_columns(expected: int, got: int) -> None:
    if got != expected:
        raise BadInput(f"rows of {got} columns cannot be added to sums over rows of {expected}")
