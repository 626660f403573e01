"""What joins many pairs of rows (x, y), as sums that merge.

Pairs are kept as x and the update u = y - x, because sums of x'y lose 2e-5 of the update's score on a column of mean 3e5 where
those of x'u lose nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medlens.stats.projection import Fit, coefficients_from_products, explained_from_products
from medlens.stats.scatter import Scatter
from medlens.stats.sums import KernelSums, Regression, Residuals, Sums


class Joint(Sums):
    """With z, w = x, y minus their references, v = w - z the update about its own, k = |z|^2 and l = |w|^2:

    s = sum v; zv = sum zv'; vv, ww = sums of v and of w, squared, by column; kl = sum k l; lz = sum l z; kw = sum k w. The sums
    over z alone are those of x, a `Scatter` about the same reference, and are given where they are needed.
    """

    names = ("of_x", "of_y", "s", "zv", "vv", "ww", "kl", "lz", "kw")

    def __init__(self, of_x: Tensor, of_y: Tensor) -> None:
        """of_x, of_y (d,): the references."""
        d = len(of_x)
        self.n, self.shared = 0, False
        self.of_x, self.of_y = of_x.clone(), of_y.clone()  # tensors in one file may not share memory
        self.s, self.lz, self.kw, self.vv, self.ww = (of_x.new_zeros(d) for _ in range(5))
        self.zv = of_x.new_zeros(d, d)
        self.kl = of_x.new_zeros(())

    @property
    def l1(self) -> Tensor:
        """Sum of l."""
        return self.ww.sum()

    def add(self, x: Tensor, y: Tensor, sign: int = 1) -> None:
        """x, y (m, d), any float type. sign: -1 takes pairs out again that are among these."""
        z, w = x.double() - self.of_x, y.double() - self.of_y
        v = w - z
        k, l_ = torch.linalg.vecdot(z, z), torch.linalg.vecdot(w, w)
        self.n += sign * len(x)
        self.s += sign * v.sum(0)
        self.zv.addmm_(z.T, v, alpha=sign)
        self.vv += sign * v.square().sum(0)
        self.ww += sign * w.square().sum(0)
        self.kl += sign * (k @ l_)
        self.lz += sign * (l_ @ z)
        self.kw += sign * (k @ w)

    def add_to(self, sums: Joint, x: Scatter, sign: int = 1) -> None:
        """These pairs too, into the others (or out of them): their z, w are those of these plus a and b. x: sums over these z."""
        a, b, n = self.of_x - sums.of_x, self.of_y - sums.of_y, self.n
        c, aa, bb = b - a, a @ a, b @ b
        z1, k1, l1 = x.s, x.k1, self.l1
        w1 = z1 + self.s
        zw_b, wz_a = x.zz @ b + self.zv @ b, x.zz @ a + a @ self.zv
        sums.n += sign * n
        sums.zv.add_(self.zv, alpha=sign).addr_(z1, c, alpha=sign).addr_(a, self.s, alpha=sign).addr_(a, c, alpha=sign * n)
        sums.s += sign * (self.s + n * c)
        sums.vv += sign * (self.vv + 2 * c * self.s + n * c * c)
        sums.ww += sign * (self.ww + 2 * b * w1 + n * b * b)
        sums.kl += sign * (
            self.kl + 2 * b @ self.kw + bb * k1 + 2 * a @ self.lz + 4 * a @ zw_b + 2 * bb * (a @ z1)
            + aa * l1 + 2 * aa * (b @ w1) + n * aa * bb
        )  # fmt: skip
        sums.lz += sign * (self.lz + a * l1 + 2 * zw_b + 2 * a * (b @ w1) + bb * z1 + n * bb * a)
        sums.kw += sign * (self.kw + b * k1 + 2 * wz_a + 2 * b * (a @ z1) + aa * w1 + n * aa * b)

    def update_products(self, x: Scatter) -> tuple[Tensor, Tensor, Tensor]:
        """Centred sums of the update u = y - x: x'u (d, d), and u and y squared, by column (d,)."""
        w1 = x.s + self.s
        xu = torch.addr(self.zv, x.s, self.s, alpha=-1 / self.n)
        return xu, (self.vv - self.s.square() / self.n).clamp_min(0), (self.ww - w1.square() / self.n).clamp_min(0)

    def regression(self, x: Scatter) -> Regression:
        """Of the update on x."""
        xu, uu, yy = self.update_products(x)
        varying = ~x.constant_columns
        if not varying.any():
            return Regression(torch.zeros_like(uu), 0, uu, yy)
        xx = x.products
        if not varying.all():
            xx, xu = xx[varying][:, varying], xu[varying]
        return Regression(*explained_from_products(xx, xu), uu, yy)

    def fits(self, x: Scatter) -> tuple[Fit, Fit]:
        """The linear maps of x that fit the update best, and y, both as maps to the update: y = x B is u = x (B - I).

        They are one, unless x leaves directions unused: there B is 0, and B - I is not. Constant columns are such directions.
        """
        means = x.reference + x.s / self.n, self.of_y - self.of_x + self.s / self.n
        xu, varying = self.update_products(x)[0], ~x.constant_columns
        if varying.all():
            a, unused = coefficients_from_products(x.products, xu)
        else:
            unused = torch.eye(x.d, dtype=xu.dtype, device=xu.device)
            a = torch.zeros_like(xu)
            where = varying.nonzero()[:, 0]
            if len(where):
                a[where], inner = coefficients_from_products(x.products[varying][:, varying], xu[varying])
                unused[where[:, None], where] = 0 if inner is None else inner
        fit = Fit(*means, a)
        return fit, fit if unused is None else Fit(*means, a - unused)

    def residuals(self, x: Scatter, fit: Fit) -> Residuals:
        """Of the fit on these pairs, without the rows: z and v less the means of the fit are z + a and v + c."""
        a, c, n = self.of_x - fit.mean_x, self.of_y - self.of_x - fit.mean_u, self.n
        z1, w1, b = x.s, x.s + self.s, a + c
        fitted, aa_a = fit.a.T @ a, fit.aa @ a
        cross = fit.a.ravel() @ self.zv.ravel() + (fit.a.T @ z1) @ c + fitted @ self.s + n * fitted @ c
        square = fit.aa.ravel() @ x.zz.ravel() + 2 * aa_a @ z1 + n * aa_a @ a
        uu = self.vv.sum() + 2 * c @ self.s + n * c @ c
        yy, xx = self.l1 + 2 * b @ w1 + n * b @ b, x.k1 + 2 * a @ z1 + n * a @ a
        return Residuals((uu - 2 * cross + square).clamp_min(0), uu, yy, xx)

    def kernel_sums(self, x: Scatter) -> KernelSums:
        """Of the Gram matrices of z and w."""
        z, w, zw = x.s, x.s + self.s, x.zz + self.zv
        ones_kl = z @ zw @ w - z @ self.lz - w @ self.kw + self.kl
        return KernelSums(zw.ravel() @ zw.ravel() - self.kl, z @ z - x.k1, w @ w - self.l1, ones_kl)
