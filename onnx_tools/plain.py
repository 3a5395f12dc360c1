"""Dataclasses as JSON can hold them.

Model files are written by anyone: names may hold bytes that are no text, and shapes may be absurd.
"""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from typing import Any

MOST_COUNT = 2**63 - 1
"""Larger counts, which only an impossible shape has, become `OVER_MOST`: they can have thousands of digits."""
OVER_MOST = "over 2^63"


def safe_text(text: str | bytes) -> str:
    """Text that UTF-8 can hold: bytes that are not UTF-8, and lone surrogates, as backslash escapes."""
    if isinstance(text, bytes):
        return text.decode(errors="backslashreplace")
    return text.encode(errors="backslashreplace").decode()


def keys_of(kind: type[Any]) -> tuple[str, ...]:
    """The keys of a dataclass as JSON: its fields, then the properties that its class variable `derived` names.

    Fields that its class variable `unlisted` names are left out.
    """
    unlisted = getattr(kind, "unlisted", ())
    return (*(field.name for field in fields(kind) if field.name not in unlisted), *getattr(kind, "derived", ()))


def plain_value(value: Any) -> Any:
    """A dataclass, number, text or sequence as JSON can hold it.

    Numbers that are not finite become "NaN", "Infinity", "-Infinity"; counts of 2^63 and more become "over 2^63".
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | bytes):
        return safe_text(value)
    if isinstance(value, Integral):
        return int(value) if value <= MOST_COUNT else OVER_MOST
    if isinstance(value, Real):
        return plain_float(float(value))
    if is_dataclass(value):
        return {key: plain_value(getattr(value, key)) for key in keys_of(type(value))}
    return [plain_value(item) for item in value]


def plain_float(value: float) -> float | str:
    """The number, or its name if it is not finite."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value
