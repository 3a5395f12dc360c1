"""The options of `oxiprune prune` that no other command has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from onnx_tools.cli.calibration_options import DATA_METRICS
from onnx_tools.cli.options import REPORTING, SELECTING, VERIFYING, WRITING

DEALING = "How much of which weight"
DEFAULT_MIN_ELEMENTS = 2048

METRICS = ("l1", "l2", "taylor", "random", *DATA_METRICS)
"""The names in `oxiprune_gpu.metrics.METRICS`, which can't be asked without importing numpy, and those of methods that
look at data; a test compares."""

ALLOCATIONS = ("uniform", "erk", "global", "global:rms", "global:lamp")
"""The texts that `oxiprune_gpu.parse_allocation` knows; a test compares."""
CURVES = "sensitivity:"
"""How `onnx_tools.search.allocating.CURVES` is; a test compares."""
POLICY_SETTINGS = ("sparsity", "metric", "granularity", "min_nonzero", "allocation", "floor", "ceiling", "target")
"""The options that a policy takes, by the names of its arguments."""
TARGETS = ("weights", "model")
"""Those of `onnx_tools.policy.TARGETS`; a test compares."""


def read_sparsity(text: str) -> float:
    """The number in a text like "0.5"; of one like "50%" or "50" the error says what to give."""
    in_percent = text.endswith("%")
    try:
        sparsity = float(text.removesuffix("%"))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None
    if in_percent or not 0.0 <= sparsity < 1.0:
        percent = 0.0 <= sparsity < 100.0 and (in_percent or sparsity > 1.0)
        hint = f"; for {sparsity:g} percent give {sparsity / 100:g}" if percent else ""
        raise typer.BadParameter(f"sparsity {text if in_percent else sparsity} must be in [0.0, 1.0){hint}")
    return sparsity


def _checked_metric(metric: str | None) -> str | None:
    """Catch what needs no library to know."""
    if metric is not None and metric.partition(":")[0] not in METRICS:
        raise typer.BadParameter(f"unknown metric '{metric}': use {', '.join(METRICS)} (random:SEED, taylor:FILE.npz)")
    return metric


def _checked_backend(backend: str) -> str:
    if backend not in ("auto", "cpu", "cuda"):
        raise typer.BadParameter(f"unknown backend '{backend}': use auto, cpu or cuda")
    return backend


def _checked_encoding(encoding: str) -> str:
    if encoding not in ("dense", "packed", "sparse"):
        raise typer.BadParameter(f"unknown encoding '{encoding}': use dense, packed or sparse")
    return encoding


def _checked_granularity(granularity: str | None) -> str | None:
    known = r"unstructured|row|column|channel|kernel|block:\d+x\d+|\d+:\d+(\+pad)?"
    if granularity is not None and not re.fullmatch(known, granularity):
        units = "unstructured, row, column, channel, kernel, block:HxW as in block:16x16, or N:M as in 2:4"
        arrays_only = re.match(r"axis:|\d+:\d+@", granularity)
        more = (
            " (axis:N and N:M@AXIS are for arrays; on a model N:M lies along the reduction axis)" if arrays_only else ""
        )
        raise typer.BadParameter(f"unknown granularity '{granularity}': use {units}{more}")
    return granularity


def _checked_allocation(allocation: str | None) -> str | None:
    by_curves = allocation is not None and allocation.startswith(CURVES) and allocation != CURVES
    if allocation is not None and allocation not in ALLOCATIONS and not by_curves:
        raise typer.BadParameter(f"unknown allocation '{allocation}': use {', '.join(ALLOCATIONS)}, {CURVES}FILE.json")
    return allocation


def _checked_target(target: str | None) -> str | None:
    if target is not None and target not in TARGETS:
        raise typer.BadParameter(f"unknown target '{target}': use {' or '.join(TARGETS)}")
    return target


Sparsity = Annotated[
    float | None,
    typer.Option(
        "--sparsity",
        "-s",
        metavar="S",
        parser=read_sparsity,
        show_default=False,
        help="Fraction that becomes zero, 0 <= S < 1: of each weight (with channel: of each layer's channels), unless "
        "--allocation deals it out. Leave it out with N:M, and where a policy says it.",
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        metavar="METRIC",
        callback=_checked_metric,
        show_default="l1",
        help="Score of a weight's elements; the lowest are pruned: l1 (|w|), l2, taylor (w*w), random:SEED, or "
        "taylor:FILE.npz (|w*g|; a gradient for each weight, under its name); or, by what the inputs are, "
        "wanda (|w| times the norm of its input, in each output), sparsegpt (what is kept makes up for what falls).",
    ),
]
Granularity = Annotated[
    str | None,
    typer.Option(
        metavar="UNIT",
        callback=_checked_granularity,
        show_default="unstructured",
        help="What is pruned as one: unstructured (elements), row (output channels), column (input channels), channel "
        "(output channels with all that goes with them in other layers, see below), kernel "
        "(all positions of an output and an input channel), block:HxW (output x input channels); or N:M, as in 2:4: "
        "N of every M neighbours along the reduction axis stay (2:4+pad: a rest of the axis is a group too).",
    ),
]
MinNonzero = Annotated[
    int | None,
    typer.Option(metavar="N", min=0, show_default="1", help="Keep at least this many elements of each weight."),
]
PolicyFile = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="TOML",
        exists=True,
        dir_okay=False,
        readable=False,
        help="Rules for weights by name or operator; the first that matches decides. The options here hold for the "
        "weights without a rule, and have the last word over the file's own defaults.",
        rich_help_panel=DEALING,
    ),
]
AllocationOption = Annotated[
    str | None,
    typer.Option(
        "--allocation",
        metavar="HOW",
        callback=_checked_allocation,
        show_default="uniform",
        help="How S is dealt out: uniform (each weight S), erk (more from large layers), global (the lowest scores of "
        "all weights fall, S of all elements together), global:rms, global:lamp (scores made comparable first); or "
        "sensitivity:FILE.json, by the curves that `oxiprune sensitivity --report FILE.json` measured, best with the "
        "same --metric and --repair. With wanda and sparsegpt, global compares |w|.",
        rich_help_panel=DEALING,
    ),
]
Floor = Annotated[
    float | None,
    typer.Option(
        metavar="S",
        min=0,
        max=1,
        show_default="0",
        help="Lowest sparsity that --allocation may give a weight.",
        rich_help_panel=DEALING,
    ),
]
Ceiling = Annotated[
    float | None,
    typer.Option(metavar="S", min=0, max=1, show_default="1", help="Highest one.", rich_help_panel=DEALING),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="OF",
        callback=_checked_target,
        show_default="weights",
        help="What S is a fraction of: the selected weights, or all weights of the model, so that those left alone are "
        "made up for.",
        rich_help_panel=DEALING,
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="File to write; external data goes to OUT.data. For several models a folder (it ends in / and is "
        "made if need be), or a name with {stem} or {parent}: the model's name and folder.",
        rich_help_panel=WRITING,
    ),
]
InPlace = Annotated[
    bool,
    typer.Option(
        "--in-place",
        help="Replace the models themselves, in one step: killed at any moment, the old or the new one stands.",
        rich_help_panel=WRITING,
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite an existing OUT.", rich_help_panel=WRITING)]
DeleteOldData = Annotated[
    bool,
    typer.Option(
        "--delete-old-data",
        help="With --in-place: delete external data that the new model does not use. Without: it stays.",
        rich_help_panel=WRITING,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", "-n", help="Count and report only; write no model.", rich_help_panel=WRITING)
]
BackendOption = Annotated[
    str,
    typer.Option(
        metavar="WHERE",
        callback=_checked_backend,
        help="What prunes: cpu, cuda (a GPU; an error where there is none), or auto: a GPU where one is present "
        "and the weights are large enough to pay for it. The result is the same, byte for byte; but what data decides "
        "(--metric wanda or sparsegpt, --repair) goes to a GPU for cuda only, and is rounded in another order there.",
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Prune only weights whose name matches the glob, or with op:Conv whose operator does. Repeatable. "
        "Default: all.",
        rich_help_panel=SELECTING,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Leave weights alone that match, also included ones. Repeatable. Default: none.",
        rich_help_panel=SELECTING,
    ),
]
MinElements = Annotated[
    int,
    typer.Option(metavar="N", min=0, help="Leave weights alone that have fewer elements.", rich_help_panel=SELECTING),
]
Depthwise = Annotated[
    bool,
    typer.Option(
        "--depthwise/--no-depthwise",
        help="Prune depthwise kernels too; that ruins most models.",
        rich_help_panel=SELECTING,
    ),
]
Embeddings = Annotated[
    bool,
    typer.Option(
        "--embeddings/--no-embeddings",
        help="Prune tables that entries are looked up in (Gather), those that are a weight elsewhere included.",
        rich_help_panel=SELECTING,
    ),
]
LinearModels = Annotated[
    bool,
    typer.Option(
        "--linear-models/--no-linear-models",
        help="Prune the coefficients of ONNX-ML's LinearClassifier and LinearRegressor.",
        rich_help_panel=SELECTING,
    ),
]
Encoding = Annotated[
    str,
    typer.Option(
        metavar="HOW",
        callback=_checked_encoding,
        help="How pruned weights are stored: dense, packed or sparse, which leave out the zeros (see `oxiprune "
        "encode`, and `oxiprune inspect --encodings` for what each saves).",
        rich_help_panel=WRITING,
    ),
]
CompareEncodings = Annotated[
    bool,
    typer.Option(
        "--compare-encodings",
        help="Add to the report what the pruned model takes in each encoding, also compressed, and with --load-time "
        "how long onnxruntime takes to load it. Writes the model in each way into a temporary folder.",
        rich_help_panel=REPORTING,
    ),
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Compare the verdicts of onnx's checker and onnxruntime, and the outputs, before anything is put in "
        "its place. (That every other byte is unchanged is always checked.)",
        rich_help_panel=VERIFYING,
    ),
]
