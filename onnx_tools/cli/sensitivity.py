"""`oxiprune sensitivity`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from onnx_tools.cli import calibration_options as calibrating
from onnx_tools.cli import prune_options as option
from onnx_tools.cli import search_options as own
from onnx_tools.cli.application import EXIT_CODES, app, run_command
from onnx_tools.cli.options import REPORTING, WRITING, OneJson, OneModel, Quiet
from onnx_tools.naming import expanded
from onnx_tools.usage import SectionedCommand, WrongUsage


def _read_sparsities(text: str) -> str:
    """Check that it is numbers with commas between."""
    for part in text.split(","):
        option.read_sparsity(part.strip())
    return text


@app.command(cls=SectionedCommand, epilog=EXIT_CODES)
def sensitivity(
    model: OneModel,
    quality: own.Eval,
    data: own.SearchData = None,
    sparsities: Annotated[
        str | None,
        typer.Option(
            metavar="S,S,...",
            callback=lambda text: None if text is None else _read_sparsities(text),
            show_default="0.3,0.5,0.7,0.8,0.9,0.95",
            help="Sparsities that are measured of each weight. Leave it out with N:M.",
        ),
    ] = None,
    granularity: option.Granularity = None,
    metric: own.Metric = None,
    calibration: calibrating.SearchCalibration = None,
    repair: calibrating.Repair = False,
    repair_by: calibrating.RepairBy = None,
    order: calibrating.SearchOrder = None,
    damping: calibrating.Damping = None,
    calibration_cache: calibrating.Cache = None,
    calibration_memory: calibrating.Memory = None,
    provider: calibrating.Provider = None,
    seed: own.SearchSeed = 0,
    include: option.Include = None,
    exclude: option.Exclude = None,
    min_elements: option.MinElements = option.DEFAULT_MIN_ELEMENTS,
    depthwise: option.Depthwise = False,
    embeddings: option.Embeddings = False,
    linear_models: option.LinearModels = False,
    backend: option.BackendOption = "auto",
    sparsity: Annotated[
        float | None,
        typer.Option(
            "--sparsity",
            "-s",
            metavar="S",
            parser=option.read_sparsity,
            show_default=False,
            help="With --output: deal out this sparsity of all weights at the lowest sum of measured drops.",
            rich_help_panel=WRITING,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="TOML",
            help="Write that allocation to TOML, for `oxiprune prune --policy`, replacing an old one.",
            rich_help_panel=WRITING,
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="JSONL",
            help="Keep what is measured in JSONL, and do not measure again what is there: a run that was stopped goes "
            "on.",
            rich_help_panel=WRITING,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="JSON", help="Write the curves to JSON, replacing an old one.", rich_help_panel=REPORTING),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw the curves into FILE (.svg, .png, .pdf); needs matplotlib.",
            rich_help_panel=REPORTING,
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: OneJson = False,
) -> None:
    """Measure what each weight costs: prune it alone, to several sparsities, and look at the quality.

    The sum of what single weights cost predicts, roughly, what they cost together. With -s and -o the sparsity of each
    weight is chosen so that this sum is the lowest there is among the sparsities measured.

    \b
    Examples:
      oxiprune sensitivity model.onnx --data test.npz --eval top1 --plot curves.svg
      oxiprune sensitivity model.onnx --data test.npz --eval drift --report curves.json --sparsities 0.5,0.7,0.9
      oxiprune sensitivity model.onnx --data test.npz --eval kl -s 0.7 -o policy.toml
      oxiprune prune model.onnx -o pruned.onnx --policy policy.toml
    """  # noqa: D301
    calibration = None if calibration is None else expanded(calibration, model)
    given = dict(locals())  # every option under its name
    if (sparsity is None) != (output is None):
        raise WrongUsage("--sparsity and --output go together: the file gets the policy that has the sparsity")
    if granularity == "channel":
        raise WrongUsage("--granularity channel does not go with single weights, which share channels with others")
    own.check_data(given)
    if report is not None and report.suffix.lower() != ".json":
        raise WrongUsage(f"--report {report}: the ending must be .json")

    def run() -> int:
        from onnx_tools import sensitivity_commands as commands
        from onnx_tools.search.sensitivity import SPARSITIES, Sensitivity
        from onnx_tools.search_commands import Measuring
        from onnx_tools.weight_selection import Selection

        texts = [text for text in (data, quality, calibration) if text is not None]

        def asked() -> Sensitivity:
            measuring = Measuring(quality, data, calibration, calibrating.method_maker(given), seed)
            measured, method, notes = measuring.tools(model)
            return Sensitivity(
                measured,
                SPARSITIES if sparsities is None else tuple(float(part) for part in sparsities.split(",")),
                granularity or "unstructured",
                "l1" if metric is None or metric in calibrating.DATA_METRICS else metric,
                method,
                Selection(
                    tuple(include or ()), tuple(exclude or ()), min_elements, depthwise, embeddings, linear_models
                ),
                texts,
                log,
                backend,
                notes,
            )

        inputs = tuple(Path(text) for text in texts if os.path.isfile(text))
        job = commands.SensitivityJob(asked, report, plot, output, sparsity, log, inputs)
        return commands.show_sensitivity(model, job, quiet=quiet, as_json=as_json)

    run_command(run)
