"""How fast are a global scope and N:M, beside pruning each tensor for itself, copying, and torch?

2^26 float32 normals at 50 %, in place with masks: as 64 tensors of different scale that compete (raw, by root mean
square, LAMP), and as 8192 x 8192 by 2:4 along the last axis and along axis 0.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import common
from common import Candidate, Result, Target

OPTIONS = common.arguments(__doc__.splitlines()[0]) if __doc__ else argparse.ArgumentParser()
SPARSITY = 0.5
TENSORS = 64
ALLOCATIONS = ("global", "global:rms", "global:lamp")
GROUPS = ("2:4", "2:4@0")


def main() -> None:
    options = OPTIONS.parse_args()
    common.use_threads(options.threads)  # before numpy and torch are imported
    import numpy as np

    side = 512 if options.quick else 8192
    rounds = options.rounds or (3 if options.quick else 7)
    result = Result("scope", {"elements": side * side, "tensors": TENSORS, "rounds": rounds, "sparsity": SPARSITY})
    normals = np.random.default_rng(0).standard_normal((side, side), np.float32)
    torch = prepared_torch(options.threads, result)
    time_scopes(normals, torch, rounds, result)
    time_groups(normals, torch, rounds, result)
    common.finish(result, options)


def prepared_torch(threads: int, result: Result) -> Any:
    if not common.installed("torch"):
        result.note("torch is not installed: not compared with it")
        return None
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads)
    return torch


def tensors_of(normals: Any) -> list[Any]:
    """Tensors of different scale, so that a global scope takes more of one than of another."""
    import numpy as np

    parts = np.split(normals.reshape(-1), TENSORS)
    return [part.reshape(512, -1) * np.float32(1 + number % 7) for number, part in enumerate(parts)]


def refill(work: Sequence[Any], originals: Sequence[Any]) -> None:
    import numpy as np

    for target, original in zip(work, originals, strict=True):
        np.copyto(target, original)


def time_scopes(normals: Any, torch: Any, rounds: int, result: Result) -> None:
    from oxiprune_gpu import PruningConfig, prune_model

    originals, config = tensors_of(normals), PruningConfig(SPARSITY)
    check_scopes(originals, config, torch)
    work, target = ([tensor.copy() for tensor in originals] for _ in range(2))
    restore = partial(refill, work, originals)
    candidates = [Candidate("copy", partial(refill, target, originals), repeats=3)]
    for allocation in ("uniform", *ALLOCATIONS):
        run = partial(prune_model, work, config, inplace=True, allocation=allocation)
        candidates.append(Candidate(allocation, run, restore, repeats=3))
    if torch is not None:
        candidates.append(torch_scope(originals, torch))
    times = common.interleaved(candidates, rounds)
    result.raw["scope"] = times
    result.figures.append(common.seconds("np.copyto of all tensors", times["copy"]))
    result.figures.append(common.ratio("each for itself, in copies", times["uniform"], times["copy"]))
    for allocation in ALLOCATIONS:
        goal = Target(1.5) if allocation == "global" else None
        result.figures.append(
            common.ratio(f"{allocation} / each for itself", times[allocation], times["uniform"], goal)
        )
    if torch is not None:
        result.figures.append(common.ratio("torch global_unstructured / global", times["torch"], times["global"]))


def check_scopes(originals: Sequence[Any], config: Any, torch: Any) -> None:
    """Before anything is timed: exactly half falls of all together, and nothing that falls is above what stays."""
    import numpy as np

    from oxiprune_gpu import prune_model

    masks = [mask for _, mask in prune_model(originals, config, allocation="global")]
    assert sum(int(np.count_nonzero(~mask)) for mask in masks) == int(SPARSITY * sum(mask.size for mask in masks))
    pairs = list(zip(originals, masks, strict=True))
    assert max(abs(x[~m]).max() for x, m in pairs) <= min(abs(x[m]).min() for x, m in pairs)
    if torch is not None:
        modules = torch_modules(originals, torch)
        torch_global(modules)
        kept = sum(int(torch.count_nonzero(module.weight)) for module in modules)
        assert kept == sum(int(np.count_nonzero(mask)) for mask in masks), f"torch keeps {kept}"


def torch_modules(originals: Sequence[Any], torch: Any) -> list[Any]:
    modules = [torch.nn.Module() for _ in originals]
    for module, original in zip(modules, originals, strict=True):
        module.register_parameter("weight", torch.nn.Parameter(torch.from_numpy(original.copy())))
    return modules


def torch_global(modules: Sequence[Any]) -> None:
    prune: Any = importlib.import_module("torch.nn.utils.prune")
    prune.global_unstructured([(module, "weight") for module in modules], prune.L1Unstructured, amount=SPARSITY)


def torch_scope(originals: Sequence[Any], torch: Any) -> Candidate:
    holder: dict[str, Any] = {}

    def prepare() -> None:
        holder.clear()
        holder["modules"] = torch_modules(originals, torch)

    return Candidate("torch", lambda: torch_global(holder["modules"]), prepare, every=3)


def time_groups(normals: Any, torch: Any, rounds: int, result: Result) -> None:
    import numpy as np

    from oxiprune_gpu import PruningConfig, prune_tensor_inplace

    work, target = normals.copy(), np.zeros_like(normals)
    restore = partial(np.copyto, work, normals)
    candidates = [Candidate("copy", partial(np.copyto, target, normals), repeats=3)]
    for groups in GROUPS:
        config = PruningConfig(granularity=groups)
        check_groups(normals, config)
        candidates.append(Candidate(groups, partial(prune_tensor_inplace, work, config), restore, repeats=3))
    if torch is not None:
        candidates.append(Candidate("torch", torch_groups(normals, torch), every=3))
    times = common.interleaved(candidates, rounds)
    result.raw["groups"] = times
    for groups in GROUPS:
        result.figures.append(common.ratio(f"{groups}, in copies", times[groups], times["copy"], Target(4)))
    if torch is not None:
        result.figures.append(common.ratio("torch.ao 2:4 / 2:4", times["torch"], times["2:4"]))


def check_groups(normals: Any, config: Any) -> None:
    """Before anything is timed: two of each four stay, and they are the highest."""
    import numpy as np

    from oxiprune_gpu import compute_mask

    along = normals if config.granularity.text == "2:4" else normals.T
    mask = compute_mask(normals, config)
    fours = np.abs(along).reshape(-1, 4)
    kept = (mask if along is normals else mask.T).reshape(-1, 4)
    assert (kept.sum(axis=1) == 2).all()
    assert (np.where(kept, fours, np.inf).min(axis=1) >= np.where(kept, 0, fours).max(axis=1)).all()


def torch_groups(normals: Any, torch: Any) -> Any:
    """One step of torch's sparsifier, which computes the masks of a linear layer."""
    pruning: Any = importlib.import_module("torch.ao.pruning")
    model = torch.nn.Sequential(torch.nn.Linear(*normals.shape[::-1], bias=False))
    model[0].weight.data = torch.from_numpy(normals.copy())
    sparsifier = pruning.WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2)
    sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])
    return sparsifier.step


if __name__ == "__main__":
    main()
