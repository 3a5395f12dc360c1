"""Faults that scripts/mutate-kernels puts into the CUDA kernels, one at a time, to see whether the tests notice."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """A plausible fault: in `file`, `old`, which stands there once, becomes `new`."""

    name: str
    file: str
    old: str
    new: str


MUTANTS: tuple[Mutant, ...] = ()


def with_fault(name: str, source: str) -> str:
    """A family's source, in which its includes stand in place, with the named fault, if that part of it is there.

    Raises:
        LookupError: there is no such mutant, or the source holds its old text more than once.
    """
    for mutant in MUTANTS:
        if mutant.name == name:
            if source.count(mutant.old) > 1:
                raise LookupError(f"{name}: the text to replace stands there more than once")
            return source.replace(mutant.old, mutant.new)
    raise LookupError(f"no mutant is called {name}")
