"""Which options of `oxiprune prune` go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnx_tools.cli.calibration_options import check_calibration
from onnx_tools.cli.channel_options import ONLY_CHANNELS, check_channel_options
from onnx_tools.cli.destination import check_destination
from onnx_tools.cli.prune_options import DEFAULT_MIN_ELEMENTS, POLICY_SETTINGS
from onnx_tools.usage import WrongUsage

_OF_WEIGHTS = ("depthwise", "embeddings", "linear_models")


def check_options(given: Mapping[str, Any]) -> bool:
    """Whether channels are pruned. `given`: all options by the names of their arguments.

    Raises `WrongUsage` for options that don't go with each other.
    """
    check_destination(given["output"], in_place=given["in_place"], dry_run=given["dry_run"])
    _check_writing(given)
    if given["masks"] is not None:
        _check_masks(given)
    check_calibration(given)
    channels = _check_channels(given)
    _check_compaction(given)
    if channels and given["policy"] is not None:
        raise WrongUsage("--policy does not go with --granularity channel; --include and --exclude name layers")
    if given["masks"] is None and given["policy"] is None and not channels:
        _check_amount(given)
    if given["save_masks"] is not None and given["dry_run"]:
        raise WrongUsage("--save-masks reads the pruned model; leave out --dry-run")
    return channels


def _check_writing(given: Mapping[str, Any]) -> None:
    encoding = given["encoding"]
    if encoding != "dense" and (given["in_place"] or given["dry_run"]):
        raise WrongUsage(f"--encoding {encoding} writes a new file: it goes with --output, not --in-place or --dry-run")
    if given["delete_old_data"] and not given["in_place"]:
        raise WrongUsage("--delete-old-data goes with --in-place")
    if not given["verify"] and (given["data"] is not None or given["max_drift"] is not None or given["seed"]):
        raise WrongUsage("--data, --max-drift and --seed go with --verify")


def _check_masks(given: Mapping[str, Any]) -> None:
    """Masks say what falls, so nothing else may."""
    others = [name for name in (*POLICY_SETTINGS, *ONLY_CHANNELS, "policy") if given[name] is not None]
    if others:
        options = " and ".join(f"--{name.replace('_', '-')}" for name in others)
        raise WrongUsage(f"--masks says what falls; leave out {options}")


def _check_channels(given: Mapping[str, Any]) -> bool:
    shaped = given["input_shape"] if not given["compact"] else None
    of_weights = {name: given[name] for name in _OF_WEIGHTS}
    of_weights["min_elements"] = given["min_elements"] != DEFAULT_MIN_ELEMENTS
    return check_channel_options(given, {"input_shape": shaped}, of_weights)


def _check_compaction(given: Mapping[str, Any]) -> None:
    compact, encoding, latency = given["compact"], given["encoding"], given["latency"]
    if compact and encoding != "dense":
        raise WrongUsage(f"--encoding {encoding} does not go with --compact; `oxiprune encode` encodes the result")
    if compact and given["in_place"]:
        raise WrongUsage("--compact writes a new file, give --output; or prune first, and then use `oxiprune compact`")
    if not compact and (latency or given["constants"] != "keep"):
        raise WrongUsage(f"{'--latency' if latency else '--constants'} goes with --compact")


def _check_amount(given: Mapping[str, Any]) -> None:
    """What is asked for says how much falls."""
    if given["sparsity"] is None and ":" not in str(given["granularity"]).removeprefix("block:"):
        raise WrongUsage("how much? Give --sparsity S, --granularity N:M as in 2:4, --policy TOML or --masks NPZ")
