"""The command that makes the answer of a search again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import fields

from onnx_tools.calibration.methods import DataMethod
from onnx_tools.compaction.choice.config import ChannelConfig
from onnx_tools.search.making import Recipe
from onnx_tools.search.options import Search, without_folder
from onnx_tools.weight_selection import Selection


def command_of(model: str, output: str, recipe: Recipe, search: Search) -> str:
    """`oxiprune prune` with the options of the answer; a policy is to be saved as POLICY.toml first."""
    channels = isinstance(recipe, ChannelConfig)
    how = _of_channels(recipe, search) if isinstance(recipe, ChannelConfig) else _of_policy(search)
    words = ["oxiprune", "prune", model, "-o", output, *how, *_selected(search.selection, channels=channels)]
    return " ".join(map(shlex.quote, words))


def _of_channels(config: ChannelConfig, search: Search) -> list[str]:
    scope = "uniform" if config.scope == "layer" else config.scope
    words = ["--granularity", "channel", "--sparsity", str(config.sparsity), "--metric", config.metric.text]
    shapes = [_shape(name, sizes) for name, sizes in search.input_shapes.items()]
    return [
        *words,
        "--allocation",
        scope,
        "--compact",
        *_looking(search.method),
        *(word for shape in shapes for word in ("--input-shape", shape)),
    ]


def _shape(name: str, sizes: Sequence[int]) -> str:
    return f"{name}={','.join(map(str, sizes))}"


def _of_policy(search: Search) -> list[str]:
    return ["--policy", "POLICY.toml", *_looking(search.method), *(["--encoding", "packed"] if search.packed else [])]


def _looking(method: DataMethod | None) -> list[str]:
    """The options of a method with data; CALIBRATION stands for data that is no file."""
    if method is None:
        return []
    given = without_folder(method.data) if isinstance(method.data, str | os.PathLike) else "CALIBRATION"
    words = [*(["--metric", method.choice] if method.choice else []), "--calibration", given]
    repair = ["--repair", "--repair-by", ",".join(method.repairs)] if method.repairs else []
    damping = ["--damping", str(method.damping)] if method.hessian else []
    return [*words, *repair, "--order", method.order, *damping]


def _selected(selection: Selection, *, channels: bool) -> list[str]:
    """The options of a selection, where they are not what they are without."""
    words = []
    for field in fields(Selection):
        value = getattr(selection, field.name)
        option = f"--{field.name.replace('_', '-')}"
        if isinstance(value, tuple):
            words += [word for pattern in value for word in (option, pattern)]
        elif value != field.default and not channels:
            words += [option] if isinstance(value, bool) else [option, str(value)]
    return words
