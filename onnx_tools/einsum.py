"""Which axes of an Einsum operand are summed with other operands, read off its equation.

The equation is ONNX's (operator Einsum, since opset 12): terms of letters parted by commas, each with one "..." at
most; without "->" the output has the letters that appear once, in alphabetical order.
"""

from __future__ import annotations

from typing import NamedTuple

_MOST_LETTERS = 500


class _Operand(NamedTuple):
    """One operand: its term, the letters that it shares with no other but the output, and those summed with others."""

    term: str
    kept: str
    summed: str


def is_contracted(equation: str, index: int) -> bool:
    """Whether operand `index` is multiplied with others and summed; no for an equation that makes no sense."""
    operand = _operand(equation, index)
    return operand is not None and operand.summed != ""


def operand_axes(equation: str, index: int, rank: int) -> tuple[int | None, int | None]:
    """(output axis, reduction axis) of operand `index` of `rank` axes; None where there is not exactly one."""
    operand = _operand(equation, index)
    if operand is None:
        return None, None
    return _axis(operand.term, operand.kept, rank), _axis(operand.term, operand.summed, rank)


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
    return _Operand(term, kept, summed)


def _axis(term: str, letters: str, rank: int) -> int | None:
    """The axis of the one letter in `letters`; the axes of "..." are what the others leave of `rank`."""
    before, dots, after = term.partition("...")
    named = len(before) + len(after)
    if len(letters) != 1 or term.count(letters) != 1 or (rank < named if dots else rank != named):
        return None
    return before.index(letters) if letters in before else rank - len(after) + after.index(letters)
