"""Writes tests/data/golden_subset.json and .npz: cases of the corpus' golden set that together stay small.

Whatever is rare comes first: one case of each sort (kind, tag, metric, granularity, outcome), then every error, then
the smallest of what is left. Arrays that follow from others are dropped: pruned data is where(mask, data, 0), and the
scores of elements are known by their SHA-256. Equal input gives equal bytes.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
MOST_BYTES = 1_500_000

Case = dict[str, Any]


def main() -> None:
    corpus = os.environ.get("OXIPRUNE_CORPUS")
    if not corpus:
        sys.exit("OXIPRUNE_CORPUS must name the folder of the corpus")
    golden = Path(corpus, "golden")
    full = json.loads((golden / "seed_public.json").read_text(encoding="utf-8"))
    with np.load(golden / "seed_public.npz") as arrays:
        subset = Subset(full, {key: arrays[key] for key in arrays.files})
    for case in in_order([without_derived(case) for case in full["cases"]], subset):
        subset.add_if_it_fits(case)
    subset.write()


def without_derived(case: Case) -> Case:
    """The case without the arrays that follow from the others."""
    expect, params = dict(case["expect"]), case.get("params", {})
    expect.pop("pruned", None)
    expect.pop("scores_head_tail", None)
    if params.get("granularity", "unstructured") == "unstructured":
        expect.pop("scores", None)
    return {**case, "expect": expect}


def in_order(cases: list[Case], subset: Subset) -> list[Case]:
    """The smallest of each sort, the errors, then the rest from small to large."""
    cases = sorted(cases, key=lambda case: (subset.cost(case), case["id"]))
    first_of_sort = {sort_of(case): case for case in reversed(cases)}.values()
    errors = [case for case in cases if case["expect"].get("outcome") == "error"]
    unique = {case["id"]: case for case in [*first_of_sort, *errors, *cases]}
    return list(unique.values())


def sort_of(case: Case) -> tuple[Any, ...]:
    params = case.get("params", {})
    return (case["kind"], case["tag"], params.get("metric"), params.get("granularity"), case["expect"].get("outcome"))


class Subset:
    """Cases that are chosen, with the tensors and arrays they need."""

    def __init__(self, full: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self._full = full
        self._arrays = arrays
        self._sizes = {key: len(zlib.compress(array.tobytes())) + 260 for key, array in arrays.items()}
        self._cases: list[Case] = []
        self._keys: set[str] = set()
        self._bytes = 0

    def cost(self, case: Case) -> int:
        """Bytes that the case adds."""
        new = self._keys_of(case) - self._keys
        return len(as_line(case)) + sum(self._sizes[key] for key in new)

    def add_if_it_fits(self, case: Case) -> None:
        cost = self.cost(case)
        if self._bytes + cost <= MOST_BYTES:
            self._cases.append(case)
            self._keys |= self._keys_of(case)
            self._bytes += cost

    def write(self) -> None:
        DATA.mkdir(exist_ok=True)
        cases = sorted(self._cases, key=lambda case: case["id"])
        used = {name for case in cases for name in tensors_of(case)}
        tensors = {name: tensor for name, tensor in self._full["tensors"].items() if name in used}
        lines = ",\n".join(as_line(case) for case in cases)
        text = f'{{"tensors":{as_line(tensors)},\n"cases":[\n{lines}\n]}}\n'
        (DATA / "golden_subset.json").write_text(text, encoding="utf-8", newline="\n")
        np.savez_compressed(DATA / "golden_subset.npz", **{key: self._arrays[key] for key in sorted(self._keys)})
        print(f"{len(cases)} of {len(self._full['cases'])} cases, {len(self._keys)} arrays")

    def _keys_of(self, case: Case) -> set[str]:
        """Names of the arrays that a case needs: any text in it that is one, and its tensors' data."""
        return {self._full["tensors"][name]["data"] for name in tensors_of(case)} | {
            text for text in texts_in(case["expect"]) if text in self._arrays
        }


def tensors_of(case: Case) -> list[str]:
    return case.get("tensors", [case["tensor"]] if "tensor" in case else [])


def texts_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for part in value.values() for text in texts_in(part)]
    if isinstance(value, list):
        return [text for part in value for text in texts_in(part)]
    return [value] if isinstance(value, str) else []


def as_line(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True)


if __name__ == "__main__":
    main()
