"""What joins many pairs of rows (x, y), as sums that merge.

Pairs are kept as x and the update u = y - x, because sums of x'y lose 2e-5 of the update's score on a column of mean 3e5 where
those of x'u lose nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medlens.stats.projection import explained_from_products
from medlens.stats.scatter import Scatter
from medlens.stats.sums import KernelSums, Regression, Sums


class Joint(Sums):
    """With z, w = x, y minus their references, v = w - z the update about its own, k = |z|^2 and l = |w|^2:

    s = sum v; zv = sum zv'; vv = sum |v|^2; l1 = sum l; kl = sum k l; lz = sum l z; kw = sum k w. The sums over z alone are those
    of x, a `Scatter` about the same reference, and are given where they are needed.
    """

    names = ("of_x", "of_y", "s", "zv", "vv", "l1", "kl", "lz", "kw")

    def __init__(self, of_x: Tensor, of_y: Tensor) -> None:
        """of_x, of_y (d,): the references."""
        d = len(of_x)
        self.n, self.shared = 0, False
        self.of_x, self.of_y = of_x, of_y
        self.s, self.lz, self.kw = of_x.new_zeros(d), of_x.new_zeros(d), of_x.new_zeros(d)
        self.zv = of_x.new_zeros(d, d)
        self.vv, self.l1, self.kl = of_x.new_zeros(()), of_x.new_zeros(()), of_x.new_zeros(())

    def add(self, x: Tensor, y: Tensor) -> None:
        """x, y (m, d), any float type."""
        z, w = x.double() - self.of_x, y.double() - self.of_y
        v = w - z
        k, l_ = torch.linalg.vecdot(z, z), torch.linalg.vecdot(w, w)
        self.n += len(x)
        self.s += v.sum(0)
        self.zv.addmm_(z.T, v)
        self.vv += v.square().sum()
        self.l1 += l_.sum()
        self.kl += k @ l_
        self.lz += l_ @ z
        self.kw += k @ w

    def add_to(self, sums: Joint, x: Scatter) -> None:
        """These pairs too, into the others: z, w of theirs are those of these plus a and b. x: the sums over these z."""
        a, b, n = self.of_x - sums.of_x, self.of_y - sums.of_y, self.n
        c, aa, bb = b - a, a @ a, b @ b
        z1, k1, l1 = x.s, x.k1, self.l1
        w1 = z1 + self.s
        zw_b, wz_a = x.zz @ b + self.zv @ b, x.zz @ a + a @ self.zv
        sums.n += n
        sums.zv.add_(self.zv).addr_(z1, c).addr_(a, self.s).addr_(a, c, alpha=n)
        sums.s += self.s + n * c
        sums.vv += self.vv + 2 * c @ self.s + n * c @ c
        sums.l1 += l1 + 2 * b @ w1 + n * bb
        sums.kl += (
            self.kl + 2 * b @ self.kw + bb * k1 + 2 * a @ self.lz + 4 * a @ zw_b + 2 * bb * (a @ z1)
            + aa * l1 + 2 * aa * (b @ w1) + n * aa * bb
        )  # fmt: skip
        sums.lz += self.lz + a * l1 + 2 * zw_b + 2 * a * (b @ w1) + bb * z1 + n * bb * a
        sums.kw += self.kw + b * k1 + 2 * wz_a + 2 * b * (a @ z1) + aa * w1 + n * aa * b

    def update_products(self, x: Scatter) -> tuple[Tensor, Tensor, Tensor]:
        """Centred sums of the update u = y - x: x'u (d, d), |u|^2 and |y|^2."""
        w1 = x.s + self.s
        xu = torch.addr(self.zv, x.s, self.s, alpha=-1 / self.n)
        return xu, self.vv - self.s @ self.s / self.n, self.l1 - w1 @ w1 / self.n

    def regression(self, x: Scatter) -> Regression:
        """Of the update on x."""
        xu, uu, yy = self.update_products(x)
        varying = ~x.constant_columns
        if not varying.any():
            return Regression(xu.new_zeros(()), 0, uu, yy)
        xx = x.products
        if not varying.all():
            xx, xu = xx[varying][:, varying], xu[varying]
        return Regression(*explained_from_products(xx, xu), uu, yy)

    def kernel_sums(self, x: Scatter) -> KernelSums:
        """Of the Gram matrices of z and w."""
        z, w, zw = x.s, x.s + self.s, x.zz + self.zv
        ones_kl = z @ zw @ w - z @ self.lz - w @ self.kw + self.kl
        return KernelSums(zw.ravel() @ zw.ravel() - self.kl, z @ z - x.k1, w @ w - self.l1, ones_kl)
