import numpy as np
from numpy.typing import ArrayLike, NDArray

def stdtrit(df: ArrayLike, p: ArrayLike) -> NDArray[np.float64]: ...
