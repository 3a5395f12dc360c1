"""Options that several commands have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from onnx_tools.usage import WrongUsage

VERIFYING = "Verification"  # headings of the help
REPORTING = "Reporting"
SELECTING = "Which weights"
WRITING = "Writing"

Models = Annotated[
    list[Path],
    typer.Argument(help="ONNX models; external data is found beside them.", metavar="MODEL...", readable=False),
]
OneModel = Annotated[Path, typer.Argument(help="An ONNX model.", metavar="MODEL", readable=False)]
OneOutput = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="OUT", help="File to write; external data goes to OUT.data.", rich_help_panel=WRITING
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite an existing OUT.", rich_help_panel=WRITING)]
OneJson = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=REPORTING)]
LoadTime = Annotated[
    bool,
    typer.Option(
        "--load-time",
        help="Measure how much longer onnxruntime takes to load the encoded model.",
        rich_help_panel=REPORTING,
    ),
]


def _checked_preference(prefer: str) -> str:
    if prefer not in ("size", "load"):
        raise typer.BadParameter(f"'{prefer}': use size or load")
    return prefer


Prefer = Annotated[
    str,
    typer.Option(
        metavar="WHAT",
        callback=_checked_preference,
        help="What decides between the ways to store places: size, or load, the time until the weights are rebuilt.",
    ),
]
Reports = Annotated[
    list[str] | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write the report to FILE too (.html, .md, .json, .csv), replacing an old one. Repeatable. Of several "
        "models, put {stem} or {parent} into the name: they stand for the model's name and folder.",
        rich_help_panel=REPORTING,
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.", rich_help_panel=REPORTING)
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print JSON: an object, of several models a list, with an error for each that is refused.",
        rich_help_panel=REPORTING,
    ),
]
Compressed = Annotated[
    bool,
    typer.Option(
        "--compressed-sizes",
        help="Report what the files weigh compressed (zstd level 3) too; takes longer than pruning.",
        rich_help_panel=REPORTING,
    ),
]
GithubSummary = Annotated[
    bool,
    typer.Option(
        "--github-summary",
        help="Append the report to the page of the job in GitHub Actions: to the file that GITHUB_STEP_SUMMARY names.",
        rich_help_panel=REPORTING,
    ),
]


def _fail_if(example: str) -> Any:
    return typer.Option(
        "--fail-if",
        metavar="CONDITION",
        help=f"Exit with 1 if a figure of the report is so, like {example}. Repeatable. An unknown name lists the "
        "known ones.",
        rich_help_panel=REPORTING,
    )


FailIf = Annotated[list[str] | None, _fail_if("'sparsity<0.5' or, for any weight, 'weight.sparsity>0.99'")]
VerifyFailIf = Annotated[list[str] | None, _fail_if("'max_abs>0.01' or 'warnings>0'")]
CompactFailIf = Annotated[list[str] | None, _fail_if("'macs_ratio>0.6' or 'removed<1'")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="NPZ",
        exists=True,
        dir_okay=False,
        readable=False,
        help="Inputs to run the models on: an array for each input, under its name. Without: random inputs.",
        rich_help_panel=VERIFYING,
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, help="Seed of the random inputs.", rich_help_panel=VERIFYING)
]


MasksFile = Annotated[
    Path | None,
    typer.Option(
        "--masks",
        metavar="NPZ",
        help="Prune by the masks of NPZ, which --save-masks wrote, in place of a sparsity; they are matched by the "
        "name and shape of weights.",
    ),
]
SaveMasks = Annotated[
    str | None,
    typer.Option(
        metavar="NPZ",
        help="Write which elements are kept to NPZ, packed bits under the name of each weight, replacing an old one. "
        "Of several models, put {stem} or {parent} into the name.",
        rich_help_panel=WRITING,
    ),
]


def checked_drift(limit: float | None) -> float | None:
    """A limit of drift that makes sense."""
    if limit is not None and not limit >= 0:
        raise typer.BadParameter(f"{limit} must be a number, 0 or more")
    return limit


MaxDrift = Annotated[
    float | None,
    typer.Option(
        "--max-drift",
        metavar="D",
        callback=checked_drift,
        help="Fail when an output moves by more than this, as relative L2, from what it was before pruning. Without: "
        "drift is told and never fails.",
        rich_help_panel=VERIFYING,
    ),
]


def checked_reports(reports: list[str] | None) -> tuple[str, ...]:
    """The report files that were asked for; an ending that no renderer has is wrong usage."""
    from onnx_tools.renderers import known_suffixes

    for report in reports or ():
        if Path(report).suffix.lower() not in known_suffixes():
            raise WrongUsage(f"--report {report}: the ending must be one of {', '.join(known_suffixes())}")
    return tuple(reports or ())


def summary_file(wanted: bool) -> Path | None:
    """The file of --github-summary; wrong usage where none is named."""
    from onnx_tools.renderers.github_summary import VARIABLE

    name = os.environ.get(VARIABLE, "")
    if wanted and not name:
        raise WrongUsage(
            f"--github-summary: the environment variable {VARIABLE}, which GitHub Actions sets, is not set; elsewhere "
            "use --report FILE.md"
        )
    return Path(name) if wanted else None
