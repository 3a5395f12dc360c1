"""The options of `oxiprune search` that no other command has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from onnx_tools.cli.calibration_options import check_looking, looks
from onnx_tools.cli.options import REPORTING, WRITING
from onnx_tools.cli.prune_options import METRICS
from onnx_tools.usage import WrongUsage

BAR = "The bar"
LOOKING = "How it is searched"

OBJECTIVES = ("sparsity", "bytes", "macs")
"""Those of `onnx_tools.search.options.OBJECTIVES`; a test compares."""


def _objective(text: str) -> str:
    if text not in OBJECTIVES:
        raise typer.BadParameter(f"unknown objective '{text}': use {', '.join(OBJECTIVES)}")
    return text


QUALITIES = ("top1", "drift", "cosine", "kl")
"""Those of `onnx_tools.quality.reading.NAMES`; a test compares."""


def _metric(text: str | None) -> str | None:
    if text is not None and (text.partition(":")[0] not in METRICS or text.startswith("taylor:")):
        raise typer.BadParameter(f"unknown metric '{text}': use {', '.join(METRICS)} (random:SEED)")
    return text


Metric = Annotated[
    str | None,
    typer.Option(
        metavar="METRIC",
        callback=_metric,
        show_default="l1",
        help="What says which elements of a weight fall: l1 (|w|), l2, taylor (w*w), random:SEED; or by data wanda "
        "(|w| times the norm of its inputs) and sparsegpt (what is kept makes up for what falls).",
        rich_help_panel=LOOKING,
    ),
]
SearchData = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="What the quality is measured on: an .npz or a folder of .npy with an array for each input (and the "
        "labels), or module:function. A function given with --eval may bring its own.",
        rich_help_panel=BAR,
    ),
]
Eval = Annotated[
    str,
    typer.Option(
        "--eval",
        metavar="QUALITY",
        help="What must be kept, higher is better: top1 (labels are the array 'labels' or 'y' of DATA, or top1:NAME), "
        "drift, cosine or kl (how near the outputs stay to the original's), or module:function: a function that gets "
        "the path of a model and gives a number, or an array with a number for each case.",
        rich_help_panel=BAR,
    ),
]
MaxDrop = Annotated[
    float,
    typer.Option(
        metavar="D",
        min=0,
        help="How much less than the original's the quality may be: 0.01 is one percentage point of top1.",
        rich_help_panel=BAR,
    ),
]
Confidence = Annotated[
    float | None,
    typer.Option(
        metavar="C",
        min=0.5,
        max=0.999999,
        show_default="off: the drop on the cases that are searched with",
        help="How sure it must be that the drop of a trial is within the bar, as in 0.95, from the differences case by "
        "case (one-sided). Guards against what passes by luck, for less sparsity; needs many cases and a bar that they "
        "can tell from 0.",
        rich_help_panel=BAR,
    ),
]
HeldOut = Annotated[
    float,
    typer.Option(
        metavar="F",
        min=0,
        max=0.9,
        help="Fraction of the cases that the search does not see; the report says what the answer loses on them.",
        rich_help_panel=BAR,
    ),
]
Allocations = Annotated[
    list[str] | None,
    typer.Option(
        "--allocation",
        metavar="HOW",
        show_default="uniform, erk, global, global:lamp",
        help="How a sparsity is dealt out among weights, as in `oxiprune prune`, or sensitivity: by what each weight "
        "costs alone, which is measured first (see `oxiprune sensitivity`). Repeatable: the best wins. Larger units: "
        "uniform, erk; channels: uniform, global.",
        rich_help_panel=LOOKING,
    ),
]
Objective = Annotated[
    str,
    typer.Option(
        metavar="WHAT",
        callback=_objective,
        help="What of all models within the bar makes the best: sparsity; bytes, of the files, which are then stored "
        "without their zeros (--encoding packed of `oxiprune prune`) or, with channels, smaller; or macs, with "
        "channels.",
        rich_help_panel=LOOKING,
    ),
]
Climb = Annotated[
    bool,
    typer.Option(
        "--climb/--no-climb",
        help="From the best allocation on, let more fall of one weight after another, as long as the bar holds.",
        rich_help_panel=LOOKING,
    ),
]
Resolution = Annotated[
    float,
    typer.Option(metavar="S", min=0.0001, max=0.5, help="Of the sparsities that are tried.", rich_help_panel=LOOKING),
]
MaxTrials = Annotated[
    int,
    typer.Option(metavar="N", min=1, help="Make and measure at most so many models.", rich_help_panel=LOOKING),
]
SearchSeed = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, help="Chooses the cases held out.", rich_help_panel=LOOKING)
]
Log = Annotated[
    Path | None,
    typer.Option(
        metavar="JSONL",
        dir_okay=False,
        readable=False,
        show_default="OUT.search.jsonl",
        help="Where trials are noted, a line each. A search that was interrupted goes on from there when the same "
        "command is given again; delete the file to begin anew.",
        rich_help_panel=REPORTING,
    ),
]
PolicyOut = Annotated[
    str | None,
    typer.Option(
        metavar="TOML",
        help="Write the policy of the answer; `oxiprune prune --policy TOML` makes the same model again.",
        rich_help_panel=WRITING,
    ),
]


def check_data(given: Mapping[str, Any]) -> None:
    """Raise `WrongUsage` for data that is missing, or that nothing reads. `given`: as for `check_looking`."""
    own_function = given["quality"].partition(":")[0] not in QUALITIES
    if given["data"] is None and not own_function:
        raise WrongUsage(f"--eval {given['quality']} is measured on data: give --data")
    check_looking(given, at_once=True)
    if looks(given) and own_function and given["calibration"] is None:
        raise WrongUsage("give --calibration: what the function of --eval measures on, is not known")
