from numpy.typing import ArrayLike

class SignificanceResult:
    statistic: float
    pvalue: float

def spearmanr(a: ArrayLike, b: ArrayLike) -> SignificanceResult: ...
