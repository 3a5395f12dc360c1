"""Cases recorded from the Rust reference: what went in, and what came out by bits.

`SETS` holds the committed subset and, where OXIPRUNE_CORPUS names a corpus, the full set. A case is a line of the JSON;
float32 scalars are written as eight hex digits, arrays are names in the npz, stored as uint32 (bits) or uint8 (masks).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oxiprune_gpu import PruningConfig, WeightTensor


def single(bits: str) -> np.float32:
    """The float32 with these bits."""
    return np.array(int(bits, 16), np.uint32).view(np.float32)[()]


def bits_of(value: float) -> str:
    """The bits of a float32; every NaN gives the same."""
    return "nan" if np.isnan(value) else f"{np.float32(value).view(np.uint32):08x}"


class GoldenSet:
    """One index with its arrays."""

    def __init__(self, name: str, index: Path) -> None:
        self.name = name
        self._arrays_path = index.with_suffix(".npz")
        content = json.loads(index.read_text(encoding="utf-8"))
        self._tensors = content["tensors"]
        self.cases = [Case(self, case) for case in content["cases"]]

    def array(self, key: str) -> np.ndarray:
        """An array by its name."""
        return self._arrays[key]

    def tensor(self, key: str) -> WeightTensor:
        """A new copy of a tensor. Raises `ShapeMismatch` when its shape does not fit its data."""
        tensor = self._tensors[key]
        return WeightTensor(tensor["name"], self.array(tensor["data"]).view(np.float32).copy(), tensor["shape"])

    def fits(self, key: str) -> bool:
        """Whether a tensor's shape fits its data."""
        return math.prod(self._tensors[key]["shape"]) == self._tensors[key]["n"]

    def where(self, chosen: Callable[[Case], bool]) -> list[Case]:
        """The cases that are chosen."""
        return [case for case in self.cases if chosen(case)]

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        with np.load(self._arrays_path) as arrays:
            return {key: arrays[key] for key in arrays.files}


@dataclass(frozen=True)
class Case:
    """One case of a golden set."""

    golden: GoldenSet
    content: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.golden.name}-{self.content['id']}-{self.tag}"

    @property
    def kind(self) -> str:
        return self.content["kind"]

    @property
    def tag(self) -> str:
        return self.content["tag"]

    @property
    def strict(self) -> bool:
        """A faithful port must match this case exactly."""
        return self.content["strict"]

    @property
    def params(self) -> dict[str, Any]:
        return self.content["params"]

    @property
    def expect(self) -> dict[str, Any]:
        return self.content["expect"]

    @property
    def fails(self) -> bool:
        return self.expect["outcome"] == "error"

    @property
    def structured(self) -> bool:
        return self.content.get("params", {}).get("granularity") in ("row", "column")

    @property
    def fits(self) -> bool:
        """Whether the shapes of its tensors fit their data."""
        return all(map(self.golden.fits, self._tensor_keys))

    @property
    def tensors(self) -> list[WeightTensor]:
        return [self.golden.tensor(key) for key in self._tensor_keys]

    @property
    def tensor(self) -> WeightTensor:
        (tensor,) = self.tensors
        return tensor

    @property
    def metric(self) -> str:
        name = self.params["metric"]
        return f"random:{self.params['seed']}" if name == "random" else name

    @property
    def config(self) -> PruningConfig:
        params = self.params
        return PruningConfig(single(params["sparsity_bits"]), self.metric, params["granularity"], params["min_nonzero"])

    @property
    def _tensor_keys(self) -> list[str]:
        return self.content.get("tensors", [self.content["tensor"]] if "tensor" in self.content else [])

    def array(self, key: str) -> np.ndarray:
        """The array that `expect[key]` names."""
        return self.golden.array(self.expect[key])


def _full_set() -> list[GoldenSet]:
    corpus = os.environ.get("OXIPRUNE_CORPUS")
    return [GoldenSet("full", Path(corpus, "golden", "seed_public.json"))] if corpus else []


SETS = [GoldenSet("subset", Path(__file__).parent / "data" / "golden_subset.json"), *_full_set()]
"""The committed subset, and the full set where there is a corpus."""


def parametrize(chosen: Callable[[Case], bool]) -> pytest.MarkDecorator:
    """Run a test on every chosen case of every set, as its argument `case`."""
    return pytest.mark.parametrize("case", [case for golden in SETS for case in golden.where(chosen)], ids=str)
