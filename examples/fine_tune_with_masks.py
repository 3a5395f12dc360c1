"""Fine-tunes a torch network under the masks that pruning its ONNX export found, and prunes the next export by them.

It shows: masks saved with the pruned model, and how they lie for torch. A mask has the shape of the weight in the file:
that of Conv, and of Gemm with transB = 1, is as torch stores it; that of MatMul, and of Gemm without transB, is
(in, out) where nn.Linear has (out, in).

Needs torch:

    python examples/fine_tune_with_masks.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_tools import Selection, apply_masks, load_masks, masks_of, prune_file, save_masks
from oxiprune_gpu import PruningConfig

try:
    import torch
    from torch.nn.utils import prune
except ImportError:
    sys.exit("this example needs torch: pip install torch")


def main(folder: Path) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
    export(network, folder / "dense.onnx")
    config, small = PruningConfig(0.75), Selection(min_elements=0)
    prune_file(folder / "dense.onnx", folder / "pruned.onnx", config=config, selection=small, force=True)
    save_masks(folder / "masks.npz", masks_of(folder / "pruned.onnx"))
    masks = load_masks(folder / "masks.npz")
    prune.custom_from_mask(network[0], "weight", torch.from_numpy(masks["gemm.weight"]))
    prune.custom_from_mask(network[2], "weight", torch.from_numpy(masks["matmul.weight"].T.copy()))

    inputs = torch.randn(512, 16)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(network(inputs), inputs[:, :8]).backward()
        optimizer.step()
    export(network, folder / "tuned.onnx")
    report = apply_masks(folder / "tuned.onnx", folder / "final.onnx", masks=folder / "masks.npz", force=True)
    zeros = [int((layer.weight == 0).sum()) for layer in (network[0], network[2])]
    print(f"zeros in torch {zeros}, by masks {[weight.zeros_after for weight in report.weights]}")


def export(network: torch.nn.Sequential, path: Path) -> None:
    """Write the two layers as exporters do: one as Gemm with torch's order of axes, one as a transposed MatMul."""
    nodes = [
        helper.make_node("Gemm", ["x", "gemm.weight"], ["a"], transB=1),
        helper.make_node("MatMul", ["a", "matmul.weight"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 16), ("y", 8))]
    first, second = (layer.weight.detach().numpy() for layer in (network[0], network[2]))
    weights = [numpy_helper.from_array(first, "gemm.weight"), numpy_helper.from_array(second.T.copy(), "matmul.weight")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], weights), ir_version=10), path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
