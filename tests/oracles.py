"""Slow, obvious float64 versions of the geometry measures, straight from their definitions. Numpy arrays in, a float out.

Nothing here is shared with the package: no sums, no normal equations, no closed form for cosines. Undefined is NaN.
"""

import math

import numpy as np

RANK_TOLERANCE = 1e-6  # on singular values of scaled columns, hence 1e-12 on eigenvalues
CONSTANT_COLUMN = 1e-12  # centred sum of squares over the raw one


def centred(x):
    """Rows minus their mean; twice, since the first mean of a column around 3e5 is itself rounded."""
    x = np.asarray(x, dtype=np.float64)
    x = x - x.mean(axis=0)
    return x - x.mean(axis=0)


def varying(x):
    """(d,) bool: columns that are not constant by the rule of MEASURES.md."""
    x = np.asarray(x, dtype=np.float64)
    return (centred(x) ** 2).sum(axis=0) > CONSTANT_COLUMN * (x**2).sum(axis=0)


def column_space(x):
    """Orthonormal basis of the centred columns of x, from the SVD of the scaled ones."""
    columns = centred(x)[:, varying(x)]
    if columns.shape[1] == 0:
        return columns
    u, s, _ = np.linalg.svd(columns / np.linalg.norm(columns, axis=0), full_matrices=False)
    return u[:, s > RANK_TOLERANCE * s[0]]


def linearity(x, y):
    """Razzhigaev 2024, Your Transformer is Secretly Linear, section 3.1: the share of centred y in the column space of x."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    basis = column_space(x)
    if len(np.unique(x, axis=0)) - 1 <= basis.shape[1] or not varying(y).any():
        return math.nan
    y = centred(y)
    return np.linalg.norm(basis.T @ y) ** 2 / np.linalg.norm(y) ** 2


def linearity_of_update(x, y):
    """The same source, "centred": linearity(x, y - x)."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return linearity(x, y - x)


def hsic1(k, kk):
    """Song et al. 2012, Feature Selection via Dependence Maximization, equation 5, from two n x n kernels."""
    n = len(k)
    k, kk = k - np.diag(np.diag(k)), kk - np.diag(np.diag(kk))
    one = np.ones(n)
    trace = np.trace(k @ kk)
    means = (one @ k @ one) * (one @ kk @ one) / ((n - 1) * (n - 2))
    cross = 2 / (n - 2) * (one @ k @ kk @ one)
    return (trace + means - cross) / (n * (n - 3))


def cka(x, y):
    """Kornblith et al. 2019, with the estimator of Song et al. 2012. HSIC_1 ignores a shift: centring only saves digits."""
    if len(x) < 4 or not (varying(x).any() and varying(y).any()):
        return math.nan
    k, kk = centred(x) @ centred(x).T, centred(y) @ centred(y).T
    return hsic1(k, kk) / math.sqrt(hsic1(k, k) * hsic1(kk, kk))


def cka_biased(x, y):
    """Kornblith et al. 2019, equation 3, as it stands: what the debiased one must not be."""
    k, kk = centred(x) @ centred(x).T, centred(y) @ centred(y).T
    return np.sum(k * kk) / (np.linalg.norm(k) * np.linalg.norm(kk))


def eigenvalues(x):
    """Of the covariance of rows, or None where the rows do not vary."""
    if len(x) < 2 or not varying(x).any():
        return None
    x = centred(x)
    return np.linalg.eigvalsh(x.T @ x / len(x)).clip(min=0)


def anisotropy(x):
    """Razzhigaev et al. 2024, The Shape of Learning: largest eigenvalue over the trace."""
    values = eigenvalues(x)
    return math.nan if values is None else values.max() / values.sum()


def participation_ratio(x):
    """Gao et al. 2017: (sum of eigenvalues)^2 / sum of their squares."""
    values = eigenvalues(x)
    return math.nan if values is None else values.sum() ** 2 / (values**2).sum()


def effective_rank(x):
    """MEASURES.md, after Roy & Vetterli 2007: exp of the entropy of eigenvalues (they: singular values) over their sum."""
    values = eigenvalues(x)
    if values is None:
        return math.nan
    p = values / values.sum()
    return math.exp(-sum(q * math.log(q) for q in p if q > 0))


def mean_cosine(x):
    """Ethayarajh 2019: cosine of every pair of rows, one by one."""
    return mean_cosine_between(x, range(len(x)))


def mean_cosine_between(x, image):
    """MEASURES.md: cosine of every pair of rows of different images, one by one; rows without direction left out."""
    image = list(image)
    x = np.asarray(x, dtype=np.float64)
    lengths = [math.sqrt(row @ row) for row in x]
    found = []
    for i in range(len(x)):
        for j in range(i):
            if image[i] != image[j] and lengths[i] > 0 and lengths[j] > 0:
                found.append(x[i] @ x[j] / (lengths[i] * lengths[j]))
    return math.fsum(found) / len(found) if found else math.nan


def neighbour_ratios(x):
    """r2 / r1 of each row, ascending; rows with a duplicate (r1 = 0) dropped. Distances come from differences of rows."""
    x = np.asarray(x, dtype=np.float64)
    ratios = []
    for i in range(len(x)):
        distance = np.sqrt(((np.delete(x, i, axis=0) - x[i]) ** 2).sum(axis=1))
        r1, r2 = np.sort(distance)[:2]
        if r1 > 0:
            ratios.append(r2 / r1)
    return np.sort(ratios)


def intrinsic_dimension(x, keep=0.9):
    """Facco et al. 2017: slope through the origin of -log(1 - i/n) on log mu_(i), i = 1 .. floor(keep n)."""
    if len(x) < 3:
        return math.nan
    mu = neighbour_ratios(x)
    n = len(mu)
    i = np.arange(1, math.floor(keep * n) + 1)
    log_mu = np.log(mu[: len(i)])
    if (log_mu > 0).sum() < 2:
        return math.nan
    return log_mu @ -np.log(1 - i / n) / (log_mu @ log_mu)


def held_out_linearity(x, y, fold):
    """MEASURES.md: for each fold, least squares on the rows of the others, row by row errors on the fold's own."""
    x, y, fold = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), np.asarray(fold)
    errors, squares = 0.0, 0.0
    for k in dict.fromkeys(fold.tolist()):
        train, test = fold != k, fold == k
        if train.sum() <= x.shape[1] + 1:
            return math.nan
        used = varying(x[train])
        mean_x, mean_y = x[train].mean(axis=0), y[train].mean(axis=0)
        columns = centred(x[train])[:, used]
        scale = np.linalg.norm(columns, axis=0)
        a = np.linalg.lstsq(columns / scale, centred(y[train]), rcond=RANK_TOLERANCE)[0]
        errors += ((y[test] - mean_y - (x[test] - mean_x)[:, used] / scale @ a) ** 2).sum()
        squares += ((y[test] - mean_y) ** 2).sum()
    return 1 - errors / squares


def held_out_linearity_of_update(x, y, fold):
    """The same of y - x."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return held_out_linearity(x, y - x, fold)


def jackknife(full, left_out, quantile):
    """MEASURES.md, with the quantile of t looked up in a table."""
    k, mean = len(left_out), sum(left_out) / len(left_out)
    variance = (k - 1) / k * sum((value - mean) ** 2 for value in left_out)
    return full - quantile * math.sqrt(variance), full + quantile * math.sqrt(variance)
