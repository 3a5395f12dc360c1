"""`oxiprune search`."""

from __future__ import annotations

import os
from pathlib import Path

from onnx_tools.cli import calibration_options as calibrating
from onnx_tools.cli import prune_options as option
from onnx_tools.cli import search_options as own
from onnx_tools.cli.application import EXIT_CODES, app, run_command
from onnx_tools.cli.channel_options import InputShapes, read_input_shapes
from onnx_tools.cli.destination import check_output_name
from onnx_tools.cli.options import (
    Force,
    GithubSummary,
    OneJson,
    OneModel,
    OneOutput,
    Quiet,
    Reports,
    checked_reports,
    summary_file,
)
from onnx_tools.naming import expanded
from onnx_tools.usage import SectionedCommand, WrongUsage


@app.command(cls=SectionedCommand, epilog=EXIT_CODES)
def search(
    model: OneModel,
    output: OneOutput,
    quality: own.Eval,
    max_drop: own.MaxDrop,
    data: own.SearchData = None,
    confidence: own.Confidence = None,
    held_out: own.HeldOut = 0.3,
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
    allocation: own.Allocations = None,
    objective: own.Objective = "sparsity",
    climb: own.Climb = True,
    resolution: own.Resolution = 0.01,
    max_trials: own.MaxTrials = 100,
    seed: own.SearchSeed = 0,
    input_shape: InputShapes = None,
    include: option.Include = None,
    exclude: option.Exclude = None,
    min_elements: option.MinElements = option.DEFAULT_MIN_ELEMENTS,
    depthwise: option.Depthwise = False,
    embeddings: option.Embeddings = False,
    linear_models: option.LinearModels = False,
    backend: option.BackendOption = "auto",
    force: Force = False,
    policy_out: own.PolicyOut = None,
    log: own.Log = None,
    report: Reports = None,
    github_summary: GithubSummary = False,
    quiet: Quiet = False,
    as_json: OneJson = False,
) -> None:
    """Find the most pruned model that keeps its quality, and write it.

    Ways to deal out a sparsity are bisected, each to the highest sparsity within the bar; from the best, single weights
    lose more as long as the bar holds. Every model that counts was made and measured. What was searched with is biased,
    so a part of the cases is held out, and the report has the quality on both, with 95 % intervals.

    \b
    Examples:
      oxiprune search model.onnx -o small.onnx --data test.npz --eval top1 --max-drop 0.01
      oxiprune search model.onnx -o small.onnx --data test.npz --eval drift --max-drop 0.05 --report search.html
      oxiprune search model.onnx -o small.onnx --eval score:accuracy --max-drop 0.01 --policy-out policy.toml
      oxiprune search model.onnx -o small.onnx --data test.npz --eval top1 --max-drop 0.01 --granularity channel \
--objective macs
      oxiprune search model.onnx -o small.onnx --data test.npz --eval top1 --max-drop 0.01 --metric sparsegpt --repair
    """  # noqa: D301
    calibration = None if calibration is None else expanded(calibration, model)
    given = dict(locals())  # every option under its name
    check_output_name(os.fspath(output), [model])
    channels = granularity == "channel"
    if objective == "macs" and not channels:
        raise WrongUsage("--objective macs goes with --granularity channel: zeros alone save no operations")
    if channels and policy_out is not None:
        raise WrongUsage("--policy-out does not go with --granularity channel; the report has the command instead")
    if input_shape and not channels:
        raise WrongUsage("--input-shape goes with --granularity channel")
    own.check_data(given)
    reports, summary = checked_reports(report), summary_file(github_summary)

    def run() -> int:
        from onnx_tools import search_commands as commands
        from onnx_tools.commands import View
        from onnx_tools.search.options import Search
        from onnx_tools.weight_selection import Selection

        named = [text for text in (data, quality, calibration) if text is not None]
        measuring = commands.Measuring(quality, data, calibration, calibrating.method_maker(given), seed)

        def made() -> Search:
            measured, method, notes = measuring.tools(model)
            return Search(
                measured,
                max_drop,
                named,
                tuple(allocation or ()),
                granularity or "unstructured",
                "l1" if metric is None or metric in calibrating.DATA_METRICS else metric,
                objective,
                method,
                selection=Selection(
                    tuple(include or ()), tuple(exclude or ()), min_elements, depthwise, embeddings, linear_models
                ),
                input_shapes=read_input_shapes(input_shape),
                held_out=held_out,
                seed=seed,
                resolution=resolution,
                most_trials=max_trials,
                climb=climb,
                log=log,
                backend=backend,
                confidence=confidence,
                notes=notes,
            )

        read = tuple(Path(text) for text in named if os.path.isfile(text))
        job = commands.SearchJob(made, output, policy_out, log, read, force)
        return commands.search_model(model, job, View(reports, quiet, as_json, False, summary))

    run_command(run)
