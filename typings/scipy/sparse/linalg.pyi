from typing import Literal

import numpy as np

def eigsh(A: np.ndarray, k: int, *, which: str, v0: np.ndarray, return_eigenvectors: Literal[False]) -> np.ndarray: ...
