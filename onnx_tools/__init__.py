"""Prune ONNX models before deployment, and report what that did to the artifact.

>>> from onnx_tools import prune_file                                            # doctest: +SKIP
>>> from oxiprune_gpu import PruningConfig
>>> prune_file("model.onnx", "pruned.onnx", config=PruningConfig(0.5))           # doctest: +SKIP

Names are imported when they are first used, so that the command starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_tools.calibration.collect import Calibration
    from onnx_tools.calibration.methods import DataMethod
    from onnx_tools.calibration.splitting import split
    from onnx_tools.calibration.sums import Statistics
    from onnx_tools.calibration.view import MatrixView
    from onnx_tools.compact_report import CompactReport
    from onnx_tools.compaction.choice.config import ChannelConfig, Target
    from onnx_tools.compaction.choice.pruning import prune_channels
    from onnx_tools.compaction.compact import compact_file
    from onnx_tools.compaction.mapping.channel_map import ChannelMap
    from onnx_tools.compaction.mapping.tracing import map_channels
    from onnx_tools.comparison import compare_files
    from onnx_tools.encodings.comparison import compare_encodings
    from onnx_tools.encodings.decode import decode_file
    from onnx_tools.encodings.encode import encode_file
    from onnx_tools.encodings.report import EncodeReport, EncodingsReport
    from onnx_tools.errors import (
        AlreadyEncoded,
        EvaluationFailed,
        InvalidExternalData,
        InvalidInputShape,
        InvalidMasks,
        InvalidModelFile,
        InvalidPolicy,
        InvalidTensor,
        NotEncoded,
        NothingSelected,
        OnnxToolsError,
        OutputRefused,
        PatternMatchesNothing,
        RuntimeMissing,
        TiedAxes,
        VerificationFailed,
        WriteFailed,
    )
    from onnx_tools.inspection import inspect_file
    from onnx_tools.mask_file import Masks, load_masks, save_masks
    from onnx_tools.masking import apply_masks
    from onnx_tools.masks import masks_of
    from onnx_tools.policy import Policy, Rule
    from onnx_tools.policy_file import read_policy
    from onnx_tools.quality.measured import Measured, Quality, interval
    from onnx_tools.quality.reading import evaluation_data, read_quality
    from onnx_tools.renderers import write_report
    from onnx_tools.report import CompareReport, InspectReport, PruneReport, VerificationReport
    from onnx_tools.rewrite import Extras, prune_file, prune_model
    from onnx_tools.search.allocating import Curves, read_curves, sensitivity_policy
    from onnx_tools.search.options import Search
    from onnx_tools.search.search import search_file
    from onnx_tools.search.sensitivity import Sensitivity, measure_sensitivity
    from onnx_tools.search_report import SearchReport
    from onnx_tools.sensitivity_report import SensitivityReport
    from onnx_tools.verify import verify_files
    from onnx_tools.weight_selection import Selection
    from onnx_tools.weights import FoundWeights, LeftAlone, Weight, find_weights

_HOMES = {
    "masking": ("apply_masks",),
    "calibration.methods": ("DataMethod",),
    "calibration.collect": ("Calibration",),
    "calibration.sums": ("Statistics",),
    "calibration.view": ("MatrixView",),
    "compact_report": ("CompactReport",),
    "compaction.compact": ("compact_file",),
    "compaction.mapping.tracing": ("ChannelMap", "map_channels"),
    "comparison": ("compare_files",),
    "encodings.comparison": ("compare_encodings",),
    "encodings.decode": ("decode_file",),
    "encodings.encode": ("encode_file",),
    "encodings.report": ("EncodeReport", "EncodingsReport"),
    "compaction.choice.config": ("ChannelConfig", "Target"),
    "compaction.choice.pruning": ("prune_channels",),
    "errors": (
        "AlreadyEncoded",
        "EvaluationFailed",
        "InvalidExternalData",
        "InvalidInputShape",
        "InvalidMasks",
        "InvalidModelFile",
        "InvalidPolicy",
        "InvalidTensor",
        "NotEncoded",
        "NothingSelected",
        "OnnxToolsError",
        "OutputRefused",
        "PatternMatchesNothing",
        "RuntimeMissing",
        "TiedAxes",
        "VerificationFailed",
        "WriteFailed",
    ),
    "inspection": ("inspect_file",),
    "calibration.splitting": ("split",),
    "mask_file": ("Masks", "load_masks", "save_masks"),
    "masks": ("masks_of",),
    "policy": ("Policy", "Rule"),
    "policy_file": ("read_policy",),
    "quality.measured": ("Measured", "Quality", "interval"),
    "quality.reading": ("evaluation_data", "read_quality"),
    "renderers": ("write_report",),
    "report": ("CompareReport", "InspectReport", "PruneReport", "VerificationReport"),
    "rewrite": ("Extras", "prune_file", "prune_model"),
    "search.allocating": ("Curves", "read_curves", "sensitivity_policy"),
    "search.options": ("Search",),
    "search.search": ("search_file",),
    "search.sensitivity": ("Sensitivity", "measure_sensitivity"),
    "search_report": ("SearchReport",),
    "sensitivity_report": ("SensitivityReport",),
    "verify": ("verify_files",),
    "weight_selection": ("Selection",),
    "weights": ("FoundWeights", "LeftAlone", "Weight", "find_weights"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AlreadyEncoded",
    "Calibration",
    "ChannelConfig",
    "ChannelMap",
    "CompactReport",
    "CompareReport",
    "Curves",
    "DataMethod",
    "EncodeReport",
    "EncodingsReport",
    "EvaluationFailed",
    "Extras",
    "FoundWeights",
    "InspectReport",
    "InvalidExternalData",
    "InvalidInputShape",
    "InvalidMasks",
    "InvalidModelFile",
    "InvalidPolicy",
    "InvalidTensor",
    "LeftAlone",
    "Masks",
    "MatrixView",
    "Measured",
    "NotEncoded",
    "NothingSelected",
    "OnnxToolsError",
    "OutputRefused",
    "PatternMatchesNothing",
    "Policy",
    "PruneReport",
    "Quality",
    "Rule",
    "RuntimeMissing",
    "Search",
    "SearchReport",
    "Selection",
    "Sensitivity",
    "SensitivityReport",
    "Statistics",
    "Target",
    "TiedAxes",
    "VerificationFailed",
    "VerificationReport",
    "Weight",
    "WriteFailed",
    "apply_masks",
    "compact_file",
    "compare_encodings",
    "compare_files",
    "decode_file",
    "encode_file",
    "evaluation_data",
    "find_weights",
    "inspect_file",
    "interval",
    "load_masks",
    "map_channels",
    "masks_of",
    "measure_sensitivity",
    "prune_channels",
    "prune_file",
    "prune_model",
    "read_curves",
    "read_policy",
    "read_quality",
    "save_masks",
    "search_file",
    "sensitivity_policy",
    "split",
    "verify_files",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'onnx_tools' has no attribute {name!r}")
    return getattr(importlib.import_module(f"onnx_tools.{_HOME_OF[name]}"), name)
