"""`oxiprune prune`."""

from __future__ import annotations

from onnx_tools.cli import calibration_options as calibrating
from onnx_tools.cli import channel_options as channel
from onnx_tools.cli import prune_options as option
from onnx_tools.cli.application import EXIT_CODES, app, run_command
from onnx_tools.cli.destination import check_output_name
from onnx_tools.cli.options import (
    AsJson,
    Compressed,
    Data,
    FailIf,
    GithubSummary,
    LoadTime,
    MasksFile,
    MaxDrift,
    Models,
    Prefer,
    Quiet,
    Reports,
    SaveMasks,
    Seed,
    checked_reports,
    summary_file,
)
from onnx_tools.cli.prune_checks import check_options
from onnx_tools.usage import SectionedCommand, WrongUsage


@app.command(cls=SectionedCommand, epilog=EXIT_CODES)
def prune(
    models: Models,
    sparsity: option.Sparsity = None,
    output: option.Output = None,
    in_place: option.InPlace = False,
    force: option.Force = False,
    delete_old_data: option.DeleteOldData = False,
    dry_run: option.DryRun = False,
    metric: option.Metric = None,
    granularity: option.Granularity = None,
    min_nonzero: option.MinNonzero = None,
    policy: option.PolicyFile = None,
    allocation: option.AllocationOption = None,
    floor: option.Floor = None,
    ceiling: option.Ceiling = None,
    target: option.Target = None,
    target_params: channel.TargetParams = None,
    target_macs: channel.TargetMacs = None,
    target_bytes: channel.TargetBytes = None,
    group_score: channel.GroupScore = None,
    min_channels: channel.MinChannels = None,
    round_to: channel.RoundTo = None,
    input_shape: channel.InputShapes = None,
    compact: channel.Compact = False,
    constants: channel.Constants = "keep",
    latency: channel.Latency = False,
    calibration: calibrating.Calibration = None,
    repair: calibrating.Repair = False,
    repair_by: calibrating.RepairBy = None,
    order: calibrating.Order = None,
    damping: calibrating.Damping = None,
    calibration_cache: calibrating.Cache = None,
    calibration_memory: calibrating.Memory = None,
    provider: calibrating.Provider = None,
    masks: MasksFile = None,
    save_masks: SaveMasks = None,
    backend: option.BackendOption = "auto",
    include: option.Include = None,
    exclude: option.Exclude = None,
    min_elements: option.MinElements = option.DEFAULT_MIN_ELEMENTS,
    depthwise: option.Depthwise = False,
    embeddings: option.Embeddings = False,
    linear_models: option.LinearModels = False,
    encoding: option.Encoding = "dense",
    prefer: Prefer = "size",
    verify: option.Verify = False,
    data: Data = None,
    max_drift: MaxDrift = None,
    seed: Seed = 0,
    report: Reports = None,
    compressed_sizes: Compressed = False,
    compare_encodings: option.CompareEncodings = False,
    load_time: LoadTime = False,
    github_summary: GithubSummary = False,
    fail_if: FailIf = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Prune the weights of ONNX models.

    Weights are found by the operators that read them (products, convolutions, recurrent layers, attention, experts),
    also in subgraphs, local functions and external data. What is not pruned stays byte for byte what it was.

    \b
    Examples:
      oxiprune prune model.onnx -o pruned.onnx --sparsity 0.5 --report pruned.md
      oxiprune prune *.onnx -o pruned/ -s 0.8 --exclude 'head.*' --verify
      oxiprune prune model.onnx --in-place -s 0.5 --granularity row
      oxiprune prune model.onnx -o sparse.onnx --granularity 2:4
      oxiprune prune model.onnx -o out.onnx -s 0.8 --allocation global:lamp
      oxiprune prune model.onnx -o out.onnx -s 0.8 --repair --calibration x.npz
      oxiprune prune model.onnx -o out.onnx -s 0.5 --granularity channel
      oxiprune prune *.onnx -o small/ --granularity channel -s 0.5 --compact
      oxiprune prune model.onnx -o pruned.onnx --policy policy.toml
      oxiprune prune model.onnx -o pruned.onnx -s 0.8 --save-masks masks.npz
      oxiprune prune tuned.onnx -o pruned.onnx --masks masks.npz
    """  # noqa: D301
    given = dict(locals())  # every option under its name
    channels = check_options(given)
    check_output_name(output, models)
    if compare_encodings and compact:
        raise WrongUsage("--compare-encodings does not go with --compact; `oxiprune inspect OUT --encodings` tells it")
    if load_time and not compare_encodings:
        raise WrongUsage("--load-time goes with --compare-encodings")
    reports, summary = checked_reports(report), summary_file(github_summary)

    def run() -> int:
        from onnx_tools import commands
        from onnx_tools.conditions import one_step_conditions, pruning_conditions
        from onnx_tools.weight_selection import Selection

        shapes, checks = channel.read_input_shapes(input_shape), commands.Checks(data, max_drift, seed)
        known = {"verify": verify, "compressed": compressed_sizes}
        if compact:
            conditions, later = one_step_conditions(fail_if or (), **known, latency=latency)
            step = commands.make_compaction(constants, shapes, checks if verify else None, latency, later)
        else:
            encoded = encoding != "dense"
            conditions = pruning_conditions(fail_if or (), **known, dry_run=dry_run, encoded=encoded)
            step = commands.make_encoding(encoding, prefer)
        gradients = commands.gradients_file(metric or "")
        read = (policy, masks, data, gradients, *calibrating.data_files(calibration, models))
        settings = {name: given[name] for name in option.POLICY_SETTINGS}
        if metric in calibrating.DATA_METRICS:
            del settings["metric"]
        job = commands.PruneJob(
            output,
            commands.read_masks(masks)
            if masks
            else channel.channel_config(given)
            if channels
            else commands.make_policy(policy, settings),
            Selection(tuple(include or ()), tuple(exclude or ()), min_elements, depthwise, embeddings, linear_models),
            commands.read_gradients(metric or ""),
            checks if verify else None,
            force=force,
            delete_old_data=delete_old_data,
            dry_run=dry_run,
            backend=backend,
            save_masks=save_masks,
            inputs=tuple(file for file in read if file is not None),
            encoding=step,
            input_shapes=shapes,
            conditions=conditions,
            method=calibrating.read_method(given),
            compared=commands.Encodings(load_time) if compare_encodings else None,
        )
        view = commands.View(reports, quiet, as_json, compressed_sizes, summary)
        return commands.prune_models(models, job, view)

    run_command(run)
