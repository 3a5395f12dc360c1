"""Prune weight arrays: exactly, fast, the same mask on every backend.

>>> import numpy as np
>>> from oxiprune_gpu import PruningConfig, prune_tensor
>>> weight = np.array([[0.1, -2.0], [3.0, -0.2]], np.float32)
>>> pruned, mask = prune_tensor(weight, PruningConfig(0.5, "l1", "unstructured"))
>>> mask
array([[False,  True],
       [ True, False]])
"""

from oxiprune_gpu._version import __version__
from oxiprune_gpu.allocation import Allocation, Erk, Global, Uniform, allocate, parse_allocation
from oxiprune_gpu.backends import deferred_checks, resolve_backend, usable_cupy
from oxiprune_gpu.blocks import ArrayBlocks, BlockSource
from oxiprune_gpu.calibrated import Reconstruction, prune_sparsegpt, prune_wanda, refit
from oxiprune_gpu.compressed import Compressed24, compress_2_4, decompress_2_4
from oxiprune_gpu.config import PruningConfig
from oxiprune_gpu.errors import (
    BelowMinNonzero,
    DenormalsFlushed,
    EmptyTensor,
    GpuUnavailable,
    InvalidOption,
    InvalidSparsity,
    NonFiniteScore,
    NonFiniteWeight,
    NotTwoDimensional,
    NotTwoOfFour,
    PruningError,
    ReadOnlyTarget,
    ShapeMismatch,
    UnsupportedArray,
    UnsupportedDtype,
)
from oxiprune_gpu.granularity import (
    NM,
    Axis,
    Block,
    Kernel,
    PruningGranularity,
    StructuredColumn,
    StructuredRow,
    Unstructured,
    parse_granularity,
)
from oxiprune_gpu.importance import ImportanceScores, ScoreStats
from oxiprune_gpu.metrics import (
    ImportanceMetric,
    L1Magnitude,
    L2Magnitude,
    Random,
    Taylor,
    TaylorProxy,
    parse_metric,
)
from oxiprune_gpu.plan import PlanResult, PrunePlan, prepare
from oxiprune_gpu.pruning import (
    PruneCounts,
    apply_mask,
    compute_importance,
    compute_mask,
    count_nonzero_blocks,
    prune_blocks,
    prune_model,
    prune_tensor,
    prune_tensor_inplace,
    score_stats_blocks,
)
from oxiprune_gpu.sparsity import ModelSparsitySummary, SparsityReport, model_sparsity_report
from oxiprune_gpu.tensor import WeightTensor

__all__ = [
    "NM",
    "Allocation",
    "ArrayBlocks",
    "Axis",
    "BelowMinNonzero",
    "Block",
    "BlockSource",
    "Compressed24",
    "DenormalsFlushed",
    "EmptyTensor",
    "Erk",
    "Global",
    "GpuUnavailable",
    "ImportanceMetric",
    "ImportanceScores",
    "InvalidOption",
    "InvalidSparsity",
    "Kernel",
    "L1Magnitude",
    "L2Magnitude",
    "ModelSparsitySummary",
    "NonFiniteScore",
    "NonFiniteWeight",
    "NotTwoDimensional",
    "NotTwoOfFour",
    "PlanResult",
    "PruneCounts",
    "PrunePlan",
    "PruningConfig",
    "PruningError",
    "PruningGranularity",
    "Random",
    "ReadOnlyTarget",
    "Reconstruction",
    "ScoreStats",
    "ShapeMismatch",
    "SparsityReport",
    "StructuredColumn",
    "StructuredRow",
    "Taylor",
    "TaylorProxy",
    "Uniform",
    "Unstructured",
    "UnsupportedArray",
    "UnsupportedDtype",
    "WeightTensor",
    "__version__",
    "allocate",
    "apply_mask",
    "compress_2_4",
    "compute_importance",
    "compute_mask",
    "count_nonzero_blocks",
    "decompress_2_4",
    "deferred_checks",
    "model_sparsity_report",
    "parse_allocation",
    "parse_granularity",
    "parse_metric",
    "prepare",
    "prune_blocks",
    "prune_model",
    "prune_sparsegpt",
    "prune_tensor",
    "prune_tensor_inplace",
    "prune_wanda",
    "refit",
    "resolve_backend",
    "score_stats_blocks",
    "usable_cupy",
]
