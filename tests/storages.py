"""The ways in which a float tensor may hold its values: dtype, and field of its TensorProto."""

import ml_dtypes
import numpy as np

STORAGES = [
    (np.float32, "raw_data"),
    (np.float32, "float_data"),
    (np.float64, "raw_data"),
    (np.float64, "double_data"),
    (np.float16, "raw_data"),
    (np.float16, "int32_data"),
    (ml_dtypes.bfloat16, "raw_data"),
    (ml_dtypes.bfloat16, "int32_data"),
]
