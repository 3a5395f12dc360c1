"""Reports as Markdown (GitHub's), for people who review an artifact.

Every name comes from a file that anyone may have written, so each cell is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from onnx_tools.compact_report import AnyReport, CompactReport
from onnx_tools.renderers import compaction_text, comparison_text, search_text, text
from onnx_tools.report import (
    ComparedTensor,
    CompareReport,
    ConditionOutcome,
    FileReport,
    InspectedWeight,
    InspectReport,
    LeftAloneReport,
    ModelEncoding,
    PayoffReport,
    PruneReport,
    Report,
    VerificationReport,
    WeightReport,
    format_fraction,
    left_alone_groups,
)
from onnx_tools.search_report import SearchReport

_MOST_EXAMPLES = 5
# An underscore inside a word is no emphasis, and names are full of them.
_SPECIAL = re.compile(r"[\\`*\[\]|~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# Entities: what would be HTML, an address that turns into a link, or a mention of a person.
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", "@": "&#64;"})
_ADDRESS = re.compile(r":(?=//)|(?<=www)\.", re.IGNORECASE)


def render(report: AnyReport) -> str:
    """The report as Markdown, UTF-8: the sums first, what is long folded."""
    if isinstance(report, CompareReport):
        sections = [_title(f"Comparison of {comparison_text.headline(report)}"), *_compared(report)]
    elif isinstance(report, CompactReport):
        sections = [_title(f"Compaction of {text.printable(report.input)}"), *_compacted(report)]
    elif isinstance(report, SearchReport):
        sections = [_title(f"Search in {text.printable(report.input)}"), *_searched(report)]
    elif isinstance(report, InspectReport):
        sections = [_title(f"Weights of {text.printable(report.input)}"), *_inspected(report)]
    else:
        sections = [_title(f"Pruning of {text.printable(report.input)}"), *_pruned(report)]
    return "\n\n".join(section for section in sections if section) + "\n"


def escape(given: str | bytes) -> str:
    r"""Text that Markdown shows as it is, on one line; line breaks appear as \n."""
    special = _SPECIAL.sub(r"\\\g<0>", text.printable(given)).translate(_ENTITIES)
    return _ADDRESS.sub(lambda found: f"&#{ord(found[0])};", special)


def _pruned(report: PruneReport) -> list[str]:
    return [
        text.state(report),
        _warnings(report.warnings),
        _conditions(report.conditions),
        _summary(report),
        _verification(report.verification),
        _folded(f"Weights ({len(report.weights):,})", _weights_table(report.weights)),
        _left_alone(report.left_alone),
        _files(report.files),
        _encodings(report.encodings),
        _folded("Configuration", _table(("Option", "Value"), text.configuration_rows(report.configuration))),
        _folded("Versions", _table(("Program", "Version"), text.version_rows(report.versions))),
    ]


def _inspected(report: InspectReport) -> list[str]:
    return [
        _warnings(report.warnings),
        _conditions(report.conditions),
        _summary(report),
        _payoff(report.payoff),
        _folded(f"Weights ({len(report.weights):,})", _inspected_table(report.weights)),
        _left_alone(report.left_alone),
        _files(report.files),
        _encodings(report.encodings),
        _folded("Versions", _table(("Program", "Version"), text.version_rows(report.versions))),
    ]


def _compared(report: CompareReport) -> list[str]:
    weights = [weight for weight in report.weights if not weight.equal]
    tables = {
        f"Weights that differ ({len(weights):,})": _compared_table(weights),
        f"Other tensors that differ ({len(report.others):,})": _compared_table(report.others),
        "What else differs": _table(("What", "Before", "After"), comparison_text.difference_rows(report)),
        "Files": _table(
            ("Model", "Role", "File", "Bytes", "Compressed (zstd-3)", "SHA-256"), comparison_text.file_rows(report)
        ),
        "Versions": _table(("Program", "Version"), text.version_rows(report.versions)),
    }
    return [
        _warnings(report.warnings),
        _conditions(report.conditions),
        _section("Summary", _table(("Total", "Value"), comparison_text.summary_rows(report))),
        *(_folded(title, table) for title, table in tables.items()),
    ]


def _compacted(report: CompactReport) -> list[str]:
    layers, titles = compaction_text.layer_rows(report), compaction_text.layer_titles(report)
    notes = {"Channels that stay": report.staying, "Channels that left a constant behind": report.dropped}
    return [
        compaction_text.state(report),
        _warnings(report.warnings),
        _conditions(report.conditions),
        _section("Summary", _table(("Total", "Value"), compaction_text.summary_rows(report))),
        escape(compaction_text.layers_note(report)),
        _verification(report.verification),
        _folded(f"Layers ({len(layers):,})", _table(titles, layers, right_from=2)),
        *(
            _folded(
                f"{title} ({len(given):,})",
                _table(compaction_text.NOTE_TITLES, map(compaction_text.note_cells, given), right_from=2),
            )
            for title, given in notes.items()
            if given
        ),
        *([] if report.pruning is None else _pruned_before(report.pruning)),
        _files(report.files),
        _folded("Versions", _table(("Program", "Version"), text.version_rows(report.versions))),
    ]


def _searched(report: SearchReport) -> list[str]:
    trials = [search_text.trial_cells(report, trial) for trial in report.trials]
    weights = map(search_text.weight_cells, report.weights)
    return [
        escape(search_text.headline(report)),
        _warnings(report.warnings),
        _conditions(report.conditions),
        _section("Answer", _table(("Figure", "Value"), search_text.summary_rows(report))),
        _section("The same again", _code(report.reproduce)),
        _folded("POLICY.toml", _code(report.policy)),
        _folded(f"Trials ({len(trials):,})", _table(search_text.TRIAL_TITLES, trials, right_from=2)),
        _folded(f"Weights ({len(report.weights):,})", _table(search_text.WEIGHT_TITLES, weights, right_from=1)),
        _files(report.files),
        _folded("Configuration", _table(("Option", "Value"), search_text.settings_rows(report.settings))),
        _folded("Versions", _table(("Program", "Version"), text.version_rows(report.versions))),
    ]


def _code(given: str) -> str:
    """Text as it is, in lines: indented, so that nothing in it can end the block."""
    return "\n".join(f"    {text.printable(line)}" for line in given.splitlines())


def _pruned_before(report: PruneReport) -> list[str]:
    """The pruning that went before the compaction."""
    return [
        _folded(f"Weights pruned before ({len(report.weights):,})", _weights_table(report.weights)),
        _left_alone(report.left_alone),
        _folded("Configuration", _table(("Option", "Value"), text.configuration_rows(report.configuration))),
    ]


def _compared_table(tensors: Iterable[ComparedTensor]) -> str:
    return _table(comparison_text.WEIGHT_TITLES, map(comparison_text.weight_cells, tensors))


def _summary(report: Report) -> str:
    return _section("Summary", _table(("Total", "Value"), text.summary_rows(report)))


def _weights_table(weights: Sequence[WeightReport]) -> str:
    how = text.pruned_how(weights)
    header = (
        "Weight",
        "Operator",
        "Shape",
        "Type",
        "Parameters",
        "Nonzero before",
        "Nonzero after",
        "Target",
        "Reached",
        "Backend",
        *how,
    )
    rows = [
        (
            *_identity(weight),
            text.count(weight.nonzero_before),
            text.count(weight.nonzero_after),
            text.target(weight.target_sparsity),
            format_fraction(weight.zeros_after, weight.parameters),
            weight.backend,
            *(of(weight) for of in how.values()),
        )
        for weight in weights
    ]
    return _table(header, rows, right_from=4)


def _inspected_table(weights: Iterable[InspectedWeight]) -> str:
    header = (
        "Weight",
        "Operator",
        "Shape",
        "Type",
        "Parameters",
        "Zeros",
        "Sparsity",
        "Zero rows",
        "Zero columns",
        "2:4",
    )
    rows = [
        (
            *_identity(weight),
            text.count(weight.zeros),
            format_fraction(weight.zeros, weight.parameters),
            text.part_of(weight.zero_rows, weight.rows),
            text.part_of(weight.zero_columns, weight.columns),
            text.two_of_four(weight),
        )
        for weight in weights
    ]
    return _table(header, rows, right_from=4)


def _payoff(reports: Sequence[PayoffReport]) -> str:
    rows = [(report.way, report.pays, report.verdict, report.rule, " ".join(report.sources)) for report in reports]
    return _section("Will it pay?", _table(("Deployed with", "Pays", "Verdict", "Rule", "Sources"), rows))


def _identity(weight: WeightReport | InspectedWeight) -> tuple[str, ...]:
    kind = text.operators(weight)
    return (text.printable(weight.name), kind, text.shape(weight.shape), weight.dtype, text.count(weight.parameters))


def _left_alone(tensors: Sequence[LeftAloneReport]) -> str:
    rows = [
        (group.reason, text.count(len(group.members)), text.group_parameters(group), _examples(group.members))
        for group in left_alone_groups(tensors)
    ]
    return _folded(f"Left alone ({len(tensors):,})", _table(("Reason", "Tensors", "Parameters", "Names"), rows))


def _examples(members: Sequence[LeftAloneReport]) -> str:
    names = [text.printable(member.name) for member in members[:_MOST_EXAMPLES]]
    more = [f"and {len(members) - len(names):,} more"] if len(members) > len(names) else []
    return ", ".join(names + more)


def _files(files: Sequence[FileReport]) -> str:
    header = ("File", "Role", "Bytes", "Compressed (zstd-3)", "SHA-256 before", "SHA-256 after")
    rows = [
        (
            text.file_name(file),
            file.role,
            text.change(file.bytes_before, file.bytes_after),
            text.change(file.compressed_before, file.compressed_after),
            file.sha256_before or text.NONE,
            file.sha256_after or text.NONE,
        )
        for file in files
    ]
    return _folded("Files", _table(header, rows))


def _encodings(ways: Sequence[ModelEncoding]) -> str:
    return _section("Encodings", _table(text.ENCODING_TITLES, text.encoding_rows(ways), right_from=1)) if ways else ""


def _verification(verification: VerificationReport | None) -> str:
    if verification is None:
        return ""
    checks = [(check.name, check.outcome, check.detail) for check in verification.checks]
    drifts = [text.drift_cells(drift) for drift in verification.drifts]
    header = ("Output", "Relative L2", "Largest difference", "Cosine", "Note")
    parts = [
        _section("Checks", _table(("Check", "Outcome", "Detail"), checks)),
        _section("Drift of the outputs", _table(header, drifts)),
    ]
    return "\n\n".join(part for part in parts if part)


def _conditions(outcomes: Iterable[ConditionOutcome]) -> str:
    header = ("Fails if", "Outcome", "Value", "Weight")
    return _section("Conditions", _table(header, map(text.condition_cells, outcomes)))


def _warnings(warnings: Iterable[str]) -> str:
    return "\n".join(f"- **Warning:** {escape(warning)}" for warning in warnings)


def _title(title: str) -> str:
    return f"# {escape(title)}"


def _section(title: str, content: str) -> str:
    return f"## {title}\n\n{content}" if content else ""


def _folded(title: str, content: str) -> str:
    return f"<details>\n<summary>{title}</summary>\n\n{content}\n\n</details>" if content else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], right_from: int | None = None) -> str:
    """A table, "" without rows; the columns from `right_from` on are set to the right."""
    lines = ["| " + " | ".join(map(escape, row)) + " |" for row in rows]
    right = len(header) if right_from is None else right_from
    rule = "".join("---|" if column < right else "---:|" for column in range(len(header)))
    return "\n".join([f"| {' | '.join(header)} |", f"|{rule}", *lines]) if lines else ""
