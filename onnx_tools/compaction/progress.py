"""How far long work has come: parts that are told of apart, seen as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

Progress = Callable[[str, int, int], None]
"""Told what is done next, how much is done, and how much is to be done."""

_Item = TypeVar("_Item")


def parts(progress: Progress | None, count: int, length: int | None = None) -> Sequence[Progress]:
    """Progress for each of `count` parts of some work, which follow each other and take equal parts of it.

    Each part counts what it likes. The whole is `count` times `length`, or times what the part counts.
    """

    def part(number: int) -> Progress:
        def tell(name: str, done: int, total: int) -> None:
            if progress is not None:
                each = total if length is None else length
                progress(name, number * each + each * done // max(total, 1), count * each)

        return tell

    return [part(number) for number in range(count)]


def told(items: Iterable[tuple[str, int, _Item]], progress: Progress | None) -> Iterator[_Item]:
    """The items, of (name, size, item), each told of before it is given, and all of them at the end."""
    listed = list(items)
    total, done = sum(size for _, size, _ in listed), 0
    for name, size, item in listed:
        if progress is not None:
            progress(name, done, total)
        yield item
        done += size
    if progress is not None:
        progress("", total, total)
