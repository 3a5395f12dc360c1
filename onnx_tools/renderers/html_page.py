"""What an HTML report shows, as plain texts for its template: every name is printable, every figure is a text."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace

from onnx_tools.compact_report import AnyReport, CompactReport
from onnx_tools.pictures import WeightPictures
from onnx_tools.renderers import compaction_text, comparison_text, html_compaction, search_text, text
from onnx_tools.renderers.drawings import Bars, bars_of, histogram_path, mask_png
from onnx_tools.renderers.html_tables import (
    ARROW,
    Table,
    checks_table,
    compared_table,
    conditions_table,
    drifts_table,
    files_table,
    inspected_table,
    payoff_table,
    pruned_table,
    text_table,
)
from onnx_tools.report import (
    ChannelChoice,
    CompareReport,
    Configuration,
    InspectReport,
    LeftAloneReport,
    ModelEncoding,
    PruneReport,
    VerificationReport,
    format_fraction,
    left_alone_groups,
)
from onnx_tools.search_report import SearchReport

_MOST_NAMES = 100
_SAID_BY_CHANNELS = ("target", "channels", "min_nonzero", "min_elements", "depthwise")


@dataclass(frozen=True)
class Card:
    """A figure of the summary. `tone`: "good", "bad" or "" for neither."""

    label: str
    value: str
    note: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Group:
    """What was left alone for one reason."""

    reason: str
    tensors: str
    parameters: str
    names: tuple[str, ...]
    more: int


@dataclass(frozen=True)
class Picture:
    """The pictures of a weight, ready to be drawn. `after` is "" where nothing was pruned."""

    name: str
    limit: str
    before: str
    after: str
    zeros: str
    not_finite: str
    mask: str
    height: int
    width: int
    rows: str
    columns: str
    output_channels: bool
    cells: int


@dataclass(frozen=True)
class Page:
    """All of a report."""

    kind: str
    title: str
    name: str
    result: str
    how: str
    state: str
    refused: bool
    warnings: tuple[str, ...]
    cards: tuple[Card, ...]
    bars: Bars
    pruned: bool
    had_zeros: bool
    weights: Table
    pictures: tuple[Picture, ...]
    left_alone: tuple[Group, ...]
    files: Table
    versions: tuple[tuple[str, str], ...]
    conditions: Table
    checks: Table | None = None
    drifts: Table | None = None
    payoff: Table | None = None
    others: Table | None = None
    differences: Table | None = None
    more: tuple[tuple[str, Table], ...] = ()
    heading: str = "Weights"
    verdict: str = ""
    about: str = ""
    options: tuple[tuple[str, str], ...] = field(default=())
    command: str = ""


def page_of(report: AnyReport) -> Page:
    """What is shown of a report."""
    if isinstance(report, CompareReport):
        return _compared_page(report)
    if isinstance(report, CompactReport):
        return _compacted_page(report)
    if isinstance(report, SearchReport):
        return _searched_page(report)
    return _pruned_page(report) if isinstance(report, PruneReport) else _inspected_page(report)


def _pruned_page(report: PruneReport) -> Page:
    verification = report.verification
    return Page(
        kind="Pruning report",
        title=f"Pruning of {text.printable(report.input)}",
        name=text.printable(report.input),
        result=text.printable(report.output or ""),
        how=_how(report.configuration),
        state=text.state(report),
        refused=report.refused,
        warnings=tuple(map(text.printable, report.warnings)),
        cards=tuple(_pruned_cards(report)),
        bars=bars_of(report.weights),
        pruned=True,
        had_zeros=report.totals.zeros_before > 0,
        weights=pruned_table(report.weights),
        pictures=tuple(map(_picture, report.pictures)),
        left_alone=_groups(report.left_alone),
        files=files_table(report.files),
        versions=tuple(text.version_rows(report.versions)),
        conditions=conditions_table(report.conditions),
        checks=checks_table(verification) if verification and verification.checks else None,
        drifts=drifts_table(verification) if verification and verification.drifts else None,
        options=tuple(text.configuration_rows(report.configuration)),
        command=_command(report),
        verdict=text.printable(report.payoff),
        more=_encodings(report.encodings),
    )


def _inspected_page(report: InspectReport) -> Page:
    return Page(
        kind="Weights of a model",
        title=f"Weights of {text.printable(report.input)}",
        name=text.printable(report.input),
        result="",
        how="",
        state="",
        refused=False,
        warnings=tuple(map(text.printable, report.warnings)),
        cards=tuple(_inspected_cards(report)),
        bars=bars_of(report.weights),
        pruned=False,
        had_zeros=False,
        weights=inspected_table(report.weights),
        pictures=tuple(map(_picture, report.pictures)),
        left_alone=_groups(report.left_alone),
        files=files_table(report.files),
        versions=tuple(text.version_rows(report.versions)),
        conditions=conditions_table(report.conditions),
        payoff=payoff_table(report.payoff) if report.payoff else None,
        more=_encodings(report.encodings),
    )


def _encodings(ways: tuple[ModelEncoding, ...]) -> tuple[tuple[str, Table], ...]:
    return (("Size by encoding", text_table(text.ENCODING_TITLES, text.encoding_rows(ways))),) if ways else ()


def _compared_page(report: CompareReport) -> Page:
    totals = report.totals
    files = ("Model", "Role", "File", "Bytes", "Compressed (zstd-3)", "SHA-256")
    return Page(
        kind="Comparison of two models",
        title=f"Comparison of {comparison_text.headline(report)}",
        name=text.printable(report.before),
        result=text.printable(report.after),
        how="",
        state="Equal: no tensor differs." if totals.weights == totals.equal and not report.others else "",
        refused=False,
        warnings=tuple(map(text.printable, report.warnings)),
        cards=tuple(_compared_cards(report)),
        bars=bars_of(report.weights),
        pruned=True,
        had_zeros=totals.zeros_before > 0,
        weights=compared_table(report.weights),
        pictures=(),
        left_alone=(),
        files=text_table(files, comparison_text.file_rows(report)),
        versions=tuple(text.version_rows(report.versions)),
        conditions=conditions_table(report.conditions),
        others=compared_table(report.others) if report.others else None,
        differences=text_table(("What", "Before", "After"), comparison_text.difference_rows(report)),
    )


def _compacted_page(report: CompactReport) -> Page:
    verification = report.verification
    notes = {"Channels that stay": report.staying, "Channels that left a constant behind": report.dropped}
    more = [(title, html_compaction.notes_table(given)) for title, given in notes.items() if given]
    pruning = report.pruning
    if pruning is not None:
        more.append(("Weights pruned before", pruned_table(pruning.weights)))
    what = "Compaction" if pruning is None else "Pruning and compaction"
    return Page(
        kind=f"{what} of a model",
        title=f"{what} of {text.printable(report.input)}",
        name=text.printable(report.input),
        result=text.printable(report.output or ""),
        how="" if pruning is None else text.how(pruning.configuration),
        state=compaction_text.state(report),
        refused=report.refused,
        warnings=tuple(map(text.printable, report.warnings)),
        cards=tuple(_compacted_cards(report)),
        bars=Bars((), 1),
        pruned=True,
        had_zeros=False,
        weights=html_compaction.layers_table(report),
        pictures=(),
        left_alone=() if pruning is None else _groups(pruning.left_alone),
        files=files_table(report.files),
        versions=tuple(text.version_rows(report.versions)),
        conditions=conditions_table(report.conditions),
        checks=checks_table(verification) if verification and verification.checks else None,
        drifts=drifts_table(verification) if verification and verification.drifts else None,
        more=tuple(more),
        options=() if pruning is None else tuple(text.configuration_rows(pruning.configuration)),
        command="" if pruning is None else f"{_command(replace(pruning, output=report.output))} --compact",
        heading="Layers",
        about=compaction_text.layers_note(report),
    )


def _compacted_cards(report: CompactReport) -> Iterable[Card]:
    for label, value, note in html_compaction.figures(report):
        yield Card(label, value, note)
    if report.verification is not None:
        yield _checks_card(report.verification)


def _searched_page(report: SearchReport) -> Page:
    trials = [search_text.trial_cells(report, trial) for trial in report.trials]
    weights = text_table(search_text.WEIGHT_TITLES, list(map(search_text.weight_cells, report.weights)))
    policy = text_table(("POLICY.toml",), [(text.printable(line),) for line in report.policy.splitlines() if line])
    more = (("Weights of the answer", weights), ("Policy of the answer", policy))
    return Page(
        kind="Search for the most pruned model",
        title=f"Search in {text.printable(report.input)}",
        name=text.printable(report.input),
        result=text.printable(report.output),
        how=search_text.headline(report),
        state="",
        refused=False,
        warnings=tuple(map(text.printable, report.warnings)),
        cards=tuple(Card(label, *value.split(", ", 1)) for label, value in search_text.summary_rows(report)),
        bars=Bars((), 1),
        pruned=True,
        had_zeros=False,
        weights=text_table(search_text.TRIAL_TITLES, trials),
        pictures=(),
        left_alone=(),
        files=files_table(report.files),
        versions=tuple(text.version_rows(report.versions)),
        conditions=conditions_table(report.conditions),
        more=tuple((title, table) for title, table in more if table.rows),
        options=tuple(search_text.settings_rows(report.settings)),
        command=text.printable(report.reproduce),
        heading="Trials",
    )


def _compared_cards(report: CompareReport) -> Iterable[Card]:
    rows = dict(comparison_text.summary_rows(report))
    totals = report.totals
    before = format_fraction(totals.zeros_before, totals.parameters_before)
    after = format_fraction(totals.zeros_after, totals.parameters_after)
    yield Card("Sparsity of the weights", after, f"{before} before")
    for label in ("Weights that differ", "Newly zero", "Newly nonzero", "Other changes", "Other tensors that differ"):
        yield Card(label, rows[label])
    yield Card("Size of the files", *_then(totals.bytes_before, totals.bytes_after))


def _how(asked: Configuration) -> str:
    return text.printable(f"{asked.granularity}, {asked.metric}, sparsity {asked.sparsity}")


def _pruned_cards(report: PruneReport) -> Iterable[Card]:
    totals = report.totals
    before = format_fraction(totals.zeros_before, totals.parameters)
    after = format_fraction(totals.zeros_after, totals.parameters)
    yield Card("Sparsity of the weights", after, f"{before} before")
    yield Card("Zeros", text.count(totals.zeros_after), f"{text.count(totals.zeros_before)} before")
    yield Card("Weights", text.count(totals.weights), f"{text.count(totals.left_alone)} tensors left alone")
    yield _parameters(totals.parameters, totals.model_parameters)
    yield Card("Size of the files", *_then(totals.bytes_before, totals.bytes_after))
    if totals.compressed_before is not None:
        yield Card("Compressed (zstd-3)", *_then(totals.compressed_before, totals.compressed_after))
    if report.verification is not None:
        yield _checks_card(report.verification)


def _inspected_cards(report: InspectReport) -> Iterable[Card]:
    totals = report.totals
    yield Card("Sparsity of the weights", format_fraction(totals.zeros, totals.parameters))
    yield Card("Zeros", text.count(totals.zeros))
    yield Card("Weights", text.count(totals.weights), f"{text.count(totals.left_alone)} other tensors")
    yield _parameters(totals.parameters, totals.model_parameters)
    yield Card("Size of the files", *_then(totals.bytes, None))
    if totals.compressed is not None:
        yield Card("Compressed (zstd-3)", *_then(totals.compressed, None))


def _parameters(weights: int, model: int) -> Card:
    return Card("Parameters of the weights", text.count(weights), f"of {text.count(model)} in the model")


def _then(before: int | None, after: int | None) -> tuple[str, str]:
    """Value and note of a card for bytes that may have changed."""
    now = before if after is None else after
    value = text.NONE if now is None else text.size(now)
    return value, f"{text.change(before, after).replace(' -> ', f' {ARROW} ')} bytes"


def _checks_card(verification: VerificationReport) -> Card:
    outcomes = [check.outcome for check in verification.checks]
    passed, failed = outcomes.count("passed"), outcomes.count("failed")
    note = ", ".join(
        f"{outcomes.count(kind)} {kind}" for kind in ("failed", "warning", "measured", "skipped") if kind in outcomes
    )
    return Card("Checks passed", f"{passed} of {len(outcomes)}", note, "bad" if failed else "good" if passed else "")


def _picture(pictures: WeightPictures) -> Picture:
    before, after, mask = pictures.before, pictures.after, pictures.mask
    highest = max((*before.counts, *(after.counts if after else ())))
    now = after or before
    return Picture(
        name=text.printable(pictures.name),
        limit=text.number(before.limit, 3),
        before=histogram_path(before, highest),
        after=histogram_path(after, highest) if after else "",
        zeros=f"{before.zeros:,} {ARROW} {now.zeros:,}" if before.zeros != now.zeros else f"{now.zeros:,}",
        not_finite=f"{now.not_finite:,}" if now.not_finite else "",
        mask=mask_png(mask),
        height=mask.height,
        width=mask.width,
        rows=f"{mask.rows:,}",
        columns=f"{mask.columns:,}",
        output_channels=mask.output_channels,
        cells=round(mask.rows * mask.columns / (mask.height * mask.width)),
    )


def _groups(tensors: Sequence[LeftAloneReport]) -> tuple[Group, ...]:
    return tuple(
        Group(
            text.printable(group.reason),
            text.count(len(group.members)),
            text.count(group.parameters),
            tuple(text.printable(member.name) for member in group.members[:_MOST_NAMES]),
            max(0, len(group.members) - _MOST_NAMES),
        )
        for group in left_alone_groups(tensors)
    )


def _command(report: PruneReport) -> str:
    """The command that does the same again. Names that are not printable stand in it as escapes."""
    words = ["oxiprune", "prune", report.input, *(["-o", report.output] if report.output else ["--dry-run"])]
    words += [word for field in fields(Configuration) for word in _option(field.name, report.configuration)]
    return " ".join(shlex.quote(text.printable(word)) for word in words)


def _option(name: str, asked: Configuration) -> list[str]:
    if asked.channels is not None and name in _SAID_BY_CHANNELS:
        return _channel_options(asked, asked.channels) if name == "channels" else []
    return _plain_option(name, asked)


def _plain_option(name: str, asked: Configuration) -> list[str]:
    if asked.metric == "masks" and name in ("sparsity", "metric", "granularity", "min_nonzero"):
        return ["--masks", "FILE.npz"] if name == "metric" else []
    value = getattr(asked, name)
    if value is None or value == ():
        return []
    if name == "rules":
        return ["--policy", "POLICY.toml"]
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [option] if value else []
    if isinstance(value, tuple):
        return [word for pattern in value for word in (option, str(pattern))]
    return [option, "taylor:FILE.npz" if value == "taylor:gradients" else str(value)]


def _channel_options(asked: Configuration, choice: ChannelChoice) -> list[str]:
    of, _, amount = asked.target.partition(":")
    wanted = [f"--target-{of}", amount] if amount else []
    limits = ["--min-channels", str(choice.min_channels), "--round-to", str(choice.round_to)]
    return [*wanted, "--group-score", choice.group_score, *limits]
