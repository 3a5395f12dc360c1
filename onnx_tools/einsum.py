"""Which axes of an Einsum operand are summed with other operands, read off its equation.

The equation is ONNX's (operator Einsum, since opset 12): terms of letters parted by commas, each with one "..." at
most; without "->" the output has the letters that appear once, in alphabetical order.
"""

from __future__ import annotations

from typing import NamedTuple

_MOST_LETTERS = 500


class _Operand(NamedTuple):
    """One operand: its term, the letters that it shares with no other but the output, and those summed with others.

    `elsewhere`: the other terms, and the output.
    """

    term: str
    kept: str
    summed: str
    elsewhere: tuple[str, ...]


def is_contracted(equation: str, index: int) -> bool:
    """Whether operand `index` is multiplied with others and summed; no for an equation that makes no sense."""
    operand = _operand(equation, index)
    return operand is not None and operand.summed != ""


def operand_axes(equation: str, index: int, rank: int) -> tuple[int | None, int | None]:
    """(output axis, reduction axis) of operand `index` of `rank` axes; None where there is not exactly one."""
    output, reduction = operand_runs(equation, index, rank)
    return _only(output), _only(reduction)


def operand_runs(equation: str, index: int, rank: int) -> tuple[range | None, range | None]:
    """The same as runs of neighbouring axes, such as heads and channels; None where they lie apart or change order."""
    operand = _operand(equation, index)
    if operand is None:
        return None, None
    return _run(operand, operand.kept, rank), _run(operand, operand.summed, rank)


def _only(run: range | None) -> int | None:
    return run.start if run is not None and len(run) == 1 else None


def _operand(equation: str, index: int) -> _Operand | None:
    text = "".join(equation.split()) if len(equation) <= _MOST_LETTERS else ""
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    letters = "".join(term.replace("...", "", 1) for term in terms)
    written = letters + right.replace("...", "", 1)
    if index >= len(terms) or not (written.isascii() and written.isalpha()):
        return None
    output = right if arrow else "".join(letter for letter in letters if letters.count(letter) == 1)
    term, others = terms[index], "".join(terms[:index] + terms[index + 1 :])
    own = dict.fromkeys(term.replace("...", ""))
    kept = "".join(letter for letter in own if letter in output and letter not in others)
    summed = "".join(letter for letter in own if letter in others and letter not in output)
    return _Operand(term, kept, summed, (*terms[:index], *terms[index + 1 :], output))


def _run(operand: _Operand, letters: str, rank: int) -> range | None:
    """The axes of `letters`, which are in the order of the term; "..." has the axes that the others leave of `rank`."""
    before, dots, after = operand.term.partition("...")
    named = len(before) + len(after)
    if not letters or (rank < named if dots else rank != named):
        return None
    if letters not in before and letters not in after:
        return None
    if any(operand.term.count(letter) != 1 for letter in letters) or not _in_order(letters, operand.elsewhere):
        return None
    start = before.index(letters) if letters in before else rank - len(after) + after.index(letters)
    return range(start, start + len(letters))


def _in_order(letters: str, texts: tuple[str, ...]) -> bool:
    """Whether those of `letters` that a text has come in the same order there."""
    return all(
        [letter for letter in letters if letter in text] == [letter for letter in text if letter in letters]
        for text in texts
    )
