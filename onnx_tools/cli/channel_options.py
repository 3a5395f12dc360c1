"""Options about channels, which `prune --granularity channel` and `compact` have."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnx_tools.cli.options import REPORTING
from onnx_tools.usage import WrongUsage

if TYPE_CHECKING:  # at run time it would bring numpy, which the command starts without
    from onnx_tools.compaction.choice.config import ChannelConfig

CHANNELS = "Whole channels (--granularity channel)"

GROUP_SCORES = ("sum", "mean", "max", "saved")
"""Those of `onnx_tools.compaction.choice.config.GROUP_SCORES`; a test compares."""

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _one_shape(text: str) -> str:
    if not re.fullmatch(r"[^=]+=\d+([,x]\d+)*", text):
        raise typer.BadParameter(f"{text!r}: give NAME=SIZES, as in input=1,3,224,224")
    return text


def read_size(text: str) -> int:
    """The number of bytes in a text like "4MB"."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]?I?B|)", text.strip().upper())
    size = 0.0 if found is None or found[2] not in _UNITS else float(found[1]) * _UNITS[found[2]]
    if not 1 <= size < math.inf:
        raise typer.BadParameter(f"{text!r}: give a size, as in 400000, 4MB or 3.5MiB")
    return int(size)


def _fraction(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None
    if not 0 < amount <= 1:
        raise typer.BadParameter(f"{text}: give the fraction that is left, above 0 and at most 1, as in 0.5")
    return amount


def _group_score(text: str | None) -> str | None:
    if text is not None and text not in GROUP_SCORES:
        raise typer.BadParameter(f"unknown group score '{text}': use {', '.join(GROUP_SCORES)}")
    return text


def _constants(text: str) -> str:
    if text not in ("keep", "drop"):
        raise typer.BadParameter(f"'{text}': use keep or drop")
    return text


InputShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="NAME=SIZES",
        parser=_one_shape,
        help="Sizes of an input that the model leaves open, as in input=1,3,224,224: where channels can't be followed "
        "or MACs not counted without. Repeatable.",
    ),
]
Constants = Annotated[
    str,
    typer.Option(
        metavar="WHAT",
        callback=_constants,
        help="What to do with a zeroed channel that leaves a constant behind which no bias can take exactly: keep the "
        "channel, or drop the constant.",
    ),
]
TargetParams = Annotated[
    float | None,
    typer.Option(
        metavar="F",
        parser=_fraction,
        show_default=False,
        help="Let as few channels leave as bring all that the model stores down to this fraction of its parameters.",
        rich_help_panel=CHANNELS,
    ),
]
TargetMacs = Annotated[
    float | None,
    typer.Option(
        metavar="F",
        parser=_fraction,
        show_default=False,
        help="The same for the multiply-accumulate operations of its layers.",
        rich_help_panel=CHANNELS,
    ),
]
TargetBytes = Annotated[
    int | None,
    typer.Option(
        metavar="SIZE",
        parser=read_size,
        show_default=False,
        help="The same for the bytes of the model's files after compaction, as in 4MB.",
        rich_help_panel=CHANNELS,
    ),
]
GroupScore = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        callback=_group_score,
        show_default="sum; saved with --allocation global",
        help="How the scores of all weights of a group make one: sum, mean, max, or saved (what a parameter of them "
        "is worth).",
        rich_help_panel=CHANNELS,
    ),
]
MinChannels = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, show_default="1", help="Keep so many of each layer.", rich_help_panel=CHANNELS),
]
RoundTo = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        show_default="1",
        help="Keep a multiple of this of the output channels of each layer, or all of them; hardware likes 8 or 16.",
        rich_help_panel=CHANNELS,
    ),
]
Compact = Annotated[
    bool,
    typer.Option(
        "--compact",
        help="Remove what is zero then, as `oxiprune compact` does: the model gets smaller and faster anywhere. "
        "--verify and --max-drift hold the zeroed model against MODEL; the small one is always held against the zeroed "
        "one, where only rounding may differ. --dry-run works on a temporary copy.",
        rich_help_panel=CHANNELS,
    ),
]
Latency = Annotated[
    bool,
    typer.Option(
        "--latency",
        help="Time both models in onnxruntime, and each of their layers, in turns, on one thread.",
        rich_help_panel=REPORTING,
    ),
]

ONLY_CHANNELS = ("target_params", "target_macs", "target_bytes", "group_score", "min_channels", "round_to")
"""The options of `prune` that say how channels are chosen, by the names of their arguments."""

_NOT_CHANNELS = ("min_nonzero", "floor", "target")


def read_input_shapes(texts: Iterable[str] | None) -> dict[str, tuple[int, ...]]:
    """The sizes by the name of the input; the last one counts."""
    pairs = (text.rsplit("=", 1) for text in texts or ())
    return {name: tuple(int(size) for size in re.split("[,x]", sizes)) for name, sizes in pairs}


def check_channel_options(settings: Mapping[str, Any], others: Mapping[str, Any], ignored: Mapping[str, Any]) -> bool:
    """Whether channels are pruned. Raises `WrongUsage` for options that don't go with what is asked for.

    `others`: options besides `settings` that only channels have; `ignored`: those that channels don't have.
    """
    wanted = settings["granularity"] == "channel"
    given = [name for name in ONLY_CHANNELS if settings[name] is not None]
    given += [name for name, value in others.items() if value]
    if not wanted and given:
        raise WrongUsage(f"{_option(given[0])} goes with --granularity channel")
    if not wanted:
        return False
    wrong = [name for name in _NOT_CHANNELS if settings[name] is not None]
    wrong += [name for name, value in ignored.items() if value]
    if wrong:
        instead = "see --min-channels, --ceiling, --exclude"
        raise WrongUsage(f"{_option(wrong[0])} does not go with --granularity channel; {instead}")
    if settings["allocation"] not in (None, "uniform", "global"):
        raise WrongUsage(f"--allocation {settings['allocation']}: of channels it is uniform or global")
    how_many = [name for name in ("sparsity", *ONLY_CHANNELS[:3]) if settings[name] is not None]
    if len(how_many) != 1:
        targets = "--target-params, --target-macs or --target-bytes"
        what = " and ".join(map(_option, how_many)) + ": give one" if how_many else "how many channels? Give one"
        raise WrongUsage(f"{what} of --sparsity, {targets}")
    return True


def channel_config(settings: Mapping[str, Any]) -> ChannelConfig:
    """The configuration for options that were checked."""
    from onnx_tools.compaction.choice.config import ChannelConfig, Target

    targets = {"target_params": "params", "target_macs": "macs", "target_bytes": "bytes"}
    target = next((Target(of, settings[name]) for name, of in targets.items() if settings[name] is not None), None)
    metric = str(settings["metric"] or "l1")
    optional = ("group_score", "min_channels", "ceiling", "round_to")
    return ChannelConfig(
        settings["sparsity"],
        "taylor" if metric.startswith("taylor:") else metric,
        target=target,
        scope="global" if settings["allocation"] == "global" else "layer",
        **{name: settings[name] for name in optional if settings[name] is not None},
    )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
