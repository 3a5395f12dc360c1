"""Pruning a matrix by what its inputs were: Wanda, SparseGPT, and the least-squares repair of any mask.

A weight is a matrix here, (outputs, features): what is multiplied with the inputs X, (samples, features), as
X @ W.T. All that is known of the inputs are sums over samples: of squares for Wanda, X.T @ X for the others. For
arrays on a GPU, CuPy needs cuBLAS and cuSOLVER too, which its extra "ctk" brings.
"""

from oxiprune_gpu.calibrated.matrices import Reconstruction
from oxiprune_gpu.calibrated.refit import refit
from oxiprune_gpu.calibrated.sparsegpt import prune_sparsegpt
from oxiprune_gpu.calibrated.wanda import prune_wanda

__all__ = ["Reconstruction", "prune_sparsegpt", "prune_wanda", "refit"]
