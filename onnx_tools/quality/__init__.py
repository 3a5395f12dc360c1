"""How good a model is on data: one number, and one for each case where there is one."""

from onnx_tools.quality.measured import Measured, Quality, interval
from onnx_tools.quality.reading import evaluation_data, read_quality
from onnx_tools.quality.splitting import shared, split

__all__ = ["Measured", "Quality", "evaluation_data", "interval", "read_quality", "shared", "split"]
