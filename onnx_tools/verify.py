"""Is a pruned model what it should be? By its bytes, by onnx's checker, and by running it.

`compare_bytes` alone proves that nothing but weights changed and needs neither checker nor onnxruntime.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import onnx

from onnx_tools.graph_index import GraphIndex
from onnx_tools.mask_file import Masks
from onnx_tools.model_file import ModelFile
from onnx_tools.report import Check, OutputDrift, VerificationReport
from onnx_tools.shared_bytes import same_bytes
from onnx_tools.verification import CHECKS
from onnx_tools.verification.byte_check import ByteComparison, ZeroedTensor, compare_bytes, more_text
from onnx_tools.verification.byte_spans import Violation
from onnx_tools.verification.feeds import one_line
from onnx_tools.verification.mask_check import check_masks
from onnx_tools.verification.metadata import left, told
from onnx_tools.verification.runtime_check import check_runtime
from onnx_tools.weights import Weight, find_weights
from onnx_tools.wire import Path
from oxiprune_gpu.errors import InvalidOption

__all__ = [
    "ByteComparison",
    "Violation",
    "ZeroedTensor",
    "bytes_check",
    "checker_check",
    "compare_bytes",
    "verify_files",
]

_MOST_SHOWN = 3


def verify_files(
    before: pathlib.Path,
    after: pathlib.Path,
    allowed: Collection[Path] | None = None,
    *,
    data: pathlib.Path | None = None,
    runtime: bool = True,
    max_drift: float | None = None,
    seed: int = 0,
    masks: Mapping[str, Any] | str | os.PathLike[str] | None = None,
) -> VerificationReport:
    """Verify the pruned model at `after` against the one at `before` that it was made from.

    The checks: "bytes" (as `compare_bytes`), "checker" (onnx's verdict, full check included) and, unless `runtime` is
    off, "runtime" (does onnxruntime load it?) and "drift" (how far each output moves). A model that was refused before
    too is no failure. Tensors that were repaired, which the metadata names, may hold other finite values.

    `allowed`: the tensors that may have new zeros; without, the weights that pruning could select, so that a bias or
    a normalisation that was zeroed fails, unless the model at `after` says that whole channels were pruned; with
    `masks`, what has a mask.

    Where the metadata says that channels have left the model at `after` since, "bytes" is skipped, and `masks` fail.

    `masks`: a file of masks, or arrays of bool by name of weight. One more check, "masks": what they prune is zero,
    what they keep is unchanged, but for tensors that were repaired.

    `data`: an .npz with an array for each input; random inputs from `seed` without. The drift fails only if the
    relative L2 of an output is above `max_drift`.

    Raises `InvalidModelFile` or `InvalidExternalData` if a model cannot be read, `InvalidMasks` if the masks can't be,
    `InvalidOption` if `data` does not fit the model or `max_drift` is no limit.
    """
    if max_drift is not None and not max_drift >= 0:
        raise InvalidOption(f"max_drift {max_drift} must be a number, 0 or more")
    before, after = pathlib.Path(before), pathlib.Path(after)
    given = None if masks is None else Masks.of(masks)
    gone = left(ModelFile.open(after)) - left(ModelFile.open(before))
    refitted = _refitted(before, after)
    allowed = _prunable(before, after, given) if allowed is None else allowed
    compared = _incomparable(before, after, gone) if gone > 0 else _compared(before, after, allowed, refitted)
    checks = [compared, checker_check(before, after)]
    drifts: list[OutputDrift] = []
    if runtime:
        more, drifts = check_runtime(before, after, data, max_drift, seed)
        checks += more
    else:
        checks += [Check(name, "skipped", "not asked for") for name in CHECKS[2:]]
    if given is not None and gone > 0:
        checks.append(Check("masks", "failed", "masks are of the masked model, not of one that is compacted"))
    elif given is not None:
        checks.append(check_masks(before, after, given, refitted))
    return VerificationReport(tuple(checks), tuple(drifts))


def _compared(
    before: pathlib.Path, after: pathlib.Path, allowed: Collection[Path], refitted: Collection[Path]
) -> Check:
    """The check "bytes"."""
    return _hinted(bytes_check(compare_bytes(before, after, allowed=allowed, refitted=refitted)), before, after)


def _incomparable(before: pathlib.Path, after: pathlib.Path, gone: int) -> Check:
    """The same for a model that `gone` groups of channels have left."""
    return Check(
        "bytes",
        "skipped",
        f"{after.name} is compacted, {gone:,} groups of channels have left: its bytes can't be compared with those of "
        f"{before.name}; those of the masked model can, which `prune --granularity channel` writes without --compact",
    )


def _prunable(before: pathlib.Path, after: pathlib.Path, masks: Masks | None) -> set[Path]:
    """The weights of a model, whatever their size, or what has a mask; and what lies on their bytes.

    With whole channels biases and normalisations fall too.
    """
    model = ModelFile.open(before)
    found = find_weights(model.skeleton)
    weights: Iterable[Weight] = found.weights
    if masks is not None:
        weights = (weight for name, weight in found.maskable().items() if name in masks)
    elif _of_channels(ModelFile.open(after)):
        weights = found.maskable().values()
    return same_bytes(model, {weight.path for weight in weights})


def _of_channels(model: ModelFile) -> bool:
    """Whether the metadata of a model says that whole channels were pruned."""
    return told(model).get("granularity") == "channel"


def _refitted(before: pathlib.Path, after: pathlib.Path) -> set[Path]:
    """The tensors whose kept values may differ: those that the metadata of the model at `after` names."""
    names = told(ModelFile.open(after)).get("refitted")
    if not isinstance(names, list) or not names:
        return set()
    model = ModelFile.open(before)
    known = find_weights(model.skeleton).maskable()
    return same_bytes(model, {known[name].path for name in names if isinstance(name, str) and name in known})


def bytes_check(comparison: ByteComparison) -> Check:
    """Return the verdict of a comparison in words."""
    if comparison.violations:
        shown = [str(violation) for violation in comparison.violations[:_MOST_SHOWN]]
        if len(comparison.violations) > _MOST_SHOWN:
            shown.append(f"{len(comparison.violations) - _MOST_SHOWN} more")
        return Check("bytes", "failed", "; ".join(shown))
    if not comparison.zeroed:
        return Check("bytes", "passed", "every byte is equal")
    tensors = sum(tensor.newly_zero > 0 for tensor in comparison.zeroed)
    zeroed = f"{comparison.newly_zero:,} values in {tensors:,} tensors are newly zero{more_text(comparison.zeroed)}"
    return Check("bytes", "passed", f"{zeroed}, every other byte is equal{_unproven(comparison)}")


def _unproven(comparison: ByteComparison) -> str:
    """What the comparison can't tell of refitted values, and where they are; "" without any."""
    names = [repr(tensor.name) for tensor in comparison.zeroed if tensor.refitted]
    if not names:
        return ""
    more = f" and {len(names) - _MOST_SHOWN:,} more" if len(names) > _MOST_SHOWN else ""
    where = ", ".join(names[:_MOST_SHOWN])
    return f"; that refitted values are right is not proven, only that they are finite: {where}{more}"


def _hinted(check: Check, before: pathlib.Path, after: pathlib.Path) -> Check:
    """A failed comparison of a dense model with an encoded one says the way out."""
    if check.outcome != "failed" or _is_encoded(before) or not _is_encoded(after):
        return check
    return replace(check, detail=f"{check.detail} (the second model is encoded: decode it first)")


def _is_encoded(path: pathlib.Path) -> bool:
    return any(node.ends_encoded for node in GraphIndex(ModelFile.open(path).skeleton).nodes)


def checker_check(before: pathlib.Path, after: pathlib.Path) -> Check:
    """Compare the verdicts of onnx's checker, plain and full."""
    found = []
    for full in (True, False):  # what passes the full check needs no other
        old, new = _complaint(before, full), _complaint(after, full)
        kind = "full check" if full else "checker"
        if new and not old:
            return Check("checker", "failed", f"the input passes the {kind}, the output does not: {new}")
        if old and new:
            found.append(f"the input fails the {kind} too: {old}")
        else:
            break
    return Check("checker", "passed", found[-1] if found else "onnx's checker passes both")


def _complaint(path: pathlib.Path, full: bool) -> str:
    """What the checker says, "" if nothing. By path, so that it finds external data and reads files above 2 GB."""
    try:
        onnx.checker.check_model(str(path), full_check=full)
    except Exception as error:  # beside its own errors, those of protobuf and of shape inference
        return one_line(error, path)
    return ""
