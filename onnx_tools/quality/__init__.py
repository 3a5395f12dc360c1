"""How good a model is on data: one number, and one for each case where there is one."""

from onnx_tools.calibration.splitting import shared, split
from onnx_tools.quality.measured import Measured, Quality, interval
from onnx_tools.quality.reading import evaluation_data, read_quality

__all__ = ["Measured", "Quality", "evaluation_data", "interval", "read_quality", "shared", "split"]
