"""The arrays of this package, by name."""

from typing import Any

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]
Array = npt.NDArray[np.float64]
Float = npt.NDArray[np.float32]  # images and maps
Complex = npt.NDArray[np.complex128]
Mask = npt.NDArray[np.uint8]  # 1 where something holds, as it is stored
Bools = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.uint8]  # number of the grain at each place, from 1; 0 of none
Index = npt.NDArray[np.int64]
