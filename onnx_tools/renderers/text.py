"""Numbers and names as people read them, for the renderers that show text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from onnx_tools.plain import MOST_COUNT, OVER_MOST, plain_float, safe_text
from onnx_tools.report import (
    CalibrationChoice,
    ChannelChoice,
    ConditionOutcome,
    Configuration,
    FileReport,
    InspectedWeight,
    InspectReport,
    LeftAloneGroup,
    ModelEncoding,
    OutputDrift,
    PruneReport,
    Report,
    RuleReport,
    Totals,
    Versions,
    WeightReport,
    format_fraction,
)

NONE = "-"
MOST_LETTERS = 1000
REFITTED = "Refitted"


def printable(given: str | bytes) -> str:
    r"""A name on one line that can't command a terminal: what is not printable as an escape, like \n or \x1b.

    Longer ones than anyone reads are cut.
    """
    text = safe_text(given if len(given) <= MOST_LETTERS else given[:MOST_LETTERS])
    text += "..." if len(given) > MOST_LETTERS else ""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def count(number: int | None) -> str:
    """A count with thousands separated."""
    if number is None:
        return NONE
    return f"{number:,}" if number <= MOST_COUNT else OVER_MOST


def size(count_of_bytes: int) -> str:
    """Bytes with three digits and a unit of 1000, like "2.31 MB"."""
    factors = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))
    unit, factor = next(((unit, factor) for unit, factor in factors if count_of_bytes >= factor), ("B", 1))
    value = count_of_bytes / factor
    digits = 0 if unit == "B" or value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}"


def shape(dims: Sequence[int], most: int = 8) -> str:
    """Like "64x32x3x3"; of more than `most` axes only the first."""
    if not dims:
        return "scalar"
    return "x".join([*(str(size) for size in dims[:most]), *(["..."] if len(dims) > most else [])])


def change(before: int | None, after: int | None) -> str:
    """Two counts as "before -> after", one if they are equal or nothing is after."""
    if before == after or after is None:
        return count(before)
    return f"{count(before)} -> {count(after)}"


def number(value: float | None, digits: int = 4) -> str:
    """A number with a few significant digits."""
    if value is None:
        return NONE
    plain = plain_float(value)
    return plain if isinstance(plain, str) else f"{plain:.{digits}g}"


def cosine(value: float | None) -> str:
    """Six decimals, 1.000000 only if it is 1."""
    if value is None or not math.isfinite(value):
        return number(value)
    return f"{min(value, 0.999999) if value < 1 else value:.6f}"


def target(sparsity: float) -> str:
    """A sparsity that was asked for, to four decimals; 0.0 and 1.0 only if it is."""
    return str(min(max(round(sparsity, 4), 0.0001), 0.9999) if 0 < sparsity < 1 else sparsity)


def part_of(part: int | None, total: int | None) -> str:
    """Like "3 of 64"."""
    return NONE if part is None or total is None else f"{count(part)} of {count(total)}"


def two_of_four(weight: InspectedWeight) -> str:
    """The fraction of groups along the reduction axis that are 2:4; if not all, along which other axis all are."""
    if weight.groups_2_4 is None or weight.satisfying_2_4 is None:
        share = NONE
    else:
        share = format_fraction(weight.satisfying_2_4, weight.groups_2_4)
    wrong = weight.other_axes_2_4 and not weight.is_2_4
    return f"{share} (but 2:4 along {weight.other_axes_2_4[0]})" if wrong else share


def file_name(file: FileReport) -> str:
    """Like "model.onnx -> pruned.onnx"."""
    before = printable(file.name_before)
    same = file.name_after is None or file.name_after == file.name_before
    return before if same else f"{before} -> {printable(file.name_after or '')}"


def drift_cells(drift: OutputDrift) -> tuple[str, str, str, str, str]:
    """Output, relative L2, largest difference, cosine, note."""
    figures = number(drift.relative_l2), number(drift.max_abs), cosine(drift.cosine)
    return (printable(drift.output), *figures, printable(drift.note))


def condition_cells(outcome: ConditionOutcome) -> tuple[str, str, str, str]:
    """Condition, outcome, value, weight."""
    met = "met" if outcome.met else "not met"
    weight = NONE if outcome.weight is None else printable(outcome.weight)
    return (printable(outcome.condition), met, number(outcome.value, 6), weight)


def condition_line(outcome: ConditionOutcome) -> str:
    """What is said of a condition that was met."""
    condition = f"--fail-if '{printable(outcome.condition)}'"
    if outcome.value is None:
        return f"{condition} fails: the figure is not known, which is taken as met"
    which = "it is" if outcome.weight is None else f"weight '{printable(outcome.weight)}' has"
    return f"{condition} is met: {which} {number(outcome.value, 6)}"


def totals_line(report: Report) -> str:
    """The sums in one sentence."""
    totals = report.totals
    over = f"{count(totals.weights)} weights, {count(totals.parameters)} of {count(totals.model_parameters)} parameters"
    if isinstance(totals, Totals):
        zeros = change(totals.zeros_before, totals.zeros_after)
        before = format_fraction(totals.zeros_before, totals.parameters)
        after = format_fraction(totals.zeros_after, totals.parameters)
        where = f"; {count(totals.weights_on_gpu)} on the GPU" if totals.weights_on_gpu else ""
        return f"{over}; zeros {zeros}; sparsity {before} -> {after}{where}"
    return f"{over}; zeros {count(totals.zeros)}; sparsity {format_fraction(totals.zeros, totals.parameters)}"


def summary_rows(report: Report) -> list[tuple[str, str]]:
    """The sums, one a row."""
    totals = report.totals
    rows = [
        ("Weights", count(totals.weights)),
        ("Parameters of the weights", count(totals.parameters)),
        ("Parameters of the model", count(totals.model_parameters)),
        ("Tensors left alone", count(totals.left_alone)),
    ]
    if isinstance(totals, Totals):
        return rows + _prune_sums(totals) + _refitted_row(report) + _payoff_row(report)
    return [
        *rows,
        ("Zeros in the weights", count(totals.zeros)),
        ("Sparsity of the weights", format_fraction(totals.zeros, totals.parameters)),
        ("Bytes of the files", count(totals.bytes)),
        *_compressed_row(totals.compressed, None),
    ]


def _prune_sums(totals: Totals) -> list[tuple[str, str]]:
    before = format_fraction(totals.zeros_before, totals.parameters)
    after = format_fraction(totals.zeros_after, totals.parameters)
    return [
        ("Weights pruned on the GPU", count(totals.weights_on_gpu)),
        ("Parameters that fell", count(totals.pruned)),
        ("Zeros in the weights", change(totals.zeros_before, totals.zeros_after)),
        ("Sparsity of the weights", f"{before} -> {after}"),
        ("Bytes of the files", change(totals.bytes_before, totals.bytes_after)),
        *_compressed_row(totals.compressed_before, totals.compressed_after),
    ]


def _refitted_row(report: Report) -> list[tuple[str, str]]:
    refitted = sum(weight.refitted for weight in report.weights if isinstance(weight, WeightReport))
    return [("Parameters kept with other values", count(refitted))] if refitted else []


def _payoff_row(report: Report) -> list[tuple[str, str]]:
    shown = isinstance(report, PruneReport) and report.payoff
    return [("Will it pay?", shown)] if shown else []


def _compressed_row(before: int | None, after: int | None) -> list[tuple[str, str]]:
    return [] if before is None else [("Bytes compressed (zstd-3)", change(before, after))]


def headline(report: Report) -> str:
    """What was done to which file, in one line."""
    name = printable(report.input)
    if isinstance(report, InspectReport):
        return name
    result = f" -> {printable(report.output)}" if report.output is not None else ""
    return f"{name}{result} ({how(report.configuration)})"


def how(asked: Configuration) -> str:
    """What was asked for, in a few words."""
    rules = f"{len(asked.rules)} rule{'s' if len(asked.rules) > 1 else ''}" if asked.rules else ""
    sparsity = "" if asked.sparsity is None else f"sparsity {target(asked.sparsity)}"
    granularity = "" if asked.metric == "masks" else asked.granularity
    dealt = "" if asked.allocation == "uniform" else asked.allocation
    wanted = f"target {asked.target}" if ":" in asked.target else ""
    repaired = "repaired" if asked.calibration is not None and asked.calibration.repair else ""
    return printable(", ".join(filter(None, (granularity, asked.metric, sparsity, wanted, dealt, rules, repaired))))


def state(report: PruneReport) -> str:
    """What a reader must know first: nothing written, or nothing changed."""
    if report.refused:
        return "Refused by a condition: nothing was written."
    if report.dry_run:
        return "Dry run: nothing was written."
    return "" if report.changed else "Unchanged: no value differs."


def operators(weight: WeightReport | InspectedWeight) -> str:
    """The operators that read a weight, and what is special about it."""
    names = ", ".join(map(printable, weight.op_types))
    if not isinstance(weight, InspectedWeight):
        return names
    tags = [*(["depthwise"] if weight.depthwise else []), *([weight.optional] if weight.optional else [])]
    return f"{names} ({', '.join(tags)})" if tags else names


def pruned_how(weights: Sequence[WeightReport]) -> dict[str, Callable[[WeightReport], str]]:
    """Columns, by their title, that say how each weight was pruned: none where that is the same for all."""
    columns: dict[str, Callable[[WeightReport], str]] = {}
    if len(set(map(_how, weights))) > 1:
        columns["How"] = _how
    if any(weight.rule is not None for weight in weights):
        columns["Rule"] = lambda weight: NONE if weight.rule is None else printable(weight.rule)
    if any(weight.refitted for weight in weights):
        columns[REFITTED] = lambda weight: count(weight.refitted)
    return columns


def _how(weight: WeightReport) -> str:
    return printable(f"{weight.granularity}, {weight.metric}") if weight.selected else "refitted only"


def group_parameters(group: LeftAloneGroup) -> str:
    """How many parameters a group has, and how many of them are known to be zero."""
    zeros = "" if group.zeros is None else f" ({count(group.zeros)} zero)"
    return f"{count(group.parameters)}{zeros}"


def configuration_rows(asked: Configuration) -> list[tuple[str, str]]:
    """Every option, under its name on the command line."""
    return [
        ("sparsity", "by rule" if asked.sparsity is None else str(asked.sparsity)),
        ("metric", printable(asked.metric)),
        ("granularity", printable(asked.granularity)),
        ("min-nonzero", count(asked.min_nonzero)),
        ("include", ", ".join(map(printable, asked.include)) or "all"),
        ("exclude", ", ".join(map(printable, asked.exclude)) or "none"),
        ("min-elements", count(asked.min_elements)),
        *(
            (name, "pruned" if wanted else "left alone")
            for name, wanted in (
                ("depthwise", asked.depthwise),
                ("embeddings", asked.embeddings),
                ("linear-models", asked.linear_models),
            )
        ),
        ("allocation", printable(asked.allocation)),
        ("floor", str(asked.floor)),
        ("ceiling", str(asked.ceiling)),
        ("target", asked.target),
        *_channel_rows(asked.channels),
        *_calibration_rows(asked.calibration),
        *((f"rule {number}", printable(_rule(rule))) for number, rule in enumerate(asked.rules, 1)),
    ]


def _channel_rows(choice: ChannelChoice | None) -> list[tuple[str, str]]:
    if choice is None:
        return []
    numbers = (("min-channels", count(choice.min_channels)), ("round-to", count(choice.round_to)))
    return [("group-score", choice.group_score), *numbers]


def _calibration_rows(choice: CalibrationChoice | None) -> list[tuple[str, str]]:
    if choice is None:
        return []
    grown = f", grown to {choice.most_damping:g}" if choice.most_damping > choice.damping else ""
    runs = f"{count(choice.runs)} run{'s' if choice.runs > 1 else ''} of the model"
    return [
        ("calibration", f"{printable(choice.data)} ({runs})"),
        ("order", choice.order),
        ("repair", ", ".join(choice.repair) or "none"),
        ("damping", f"{choice.damping:g}{grown}"),
        *([("backend", choice.backend)] if choice.backend != "cpu" else []),
    ]


def _rule(rule: RuleReport) -> str:
    """A rule in words."""
    if not rule.prune:
        return f"{', '.join(rule.match)}: left alone"
    settings = {name: getattr(rule, name) for name in ("sparsity", "metric", "granularity", "min_nonzero")}
    given = ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)
    return f"{', '.join(rule.match)}: {given or 'as the others'}"


ENCODING_TITLES = ("The model", "Bytes", "Compressed (zstd-3)", "Load time")
"""Of `encoding_rows`. The time is that of making a session of onnxruntime, in units of the dense model's."""


def encoding_rows(ways: Iterable[ModelEncoding]) -> list[tuple[str, str, str, str]]:
    """What the model takes in each encoding."""
    rows = []
    for way in ways:
        name = f"{way.encoding}, prefer {way.prefer}" if way.encoding == "packed" else way.encoding
        load = NONE if way.load_ratio is None else f"x {number(way.load_ratio, 3)}"
        rows.append((name, count(way.bytes), count(way.compressed), load))
    return rows


def version_rows(versions: Versions) -> list[tuple[str, str]]:
    """The versions of what did the work."""
    rows = [("oxiprune", versions.oxiprune), ("Python", versions.python), ("numpy", versions.numpy)]
    rows += [("onnx", versions.onnx), ("onnxruntime", versions.onnxruntime or "not used")]
    return [(name, printable(version)) for name, version in rows]
