"""What encoding or decoding did to a model: plain data, as in `onnx_tools.report`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from onnx_tools.report import FileReport, ModelEncoding, VerificationReport, Versions, fraction


@dataclass(frozen=True)
class EncodedWeight:
    """A weight, and how it is stored now. `stored`: elements that differ from the fill, zero or a zero point.

    `encoding`: "dense" if it was left as it was, and `reason` says why; a layout of the packed encoding; or "sparse".
    `bytes_before`, `bytes_after`: of the file, nodes and all included.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    parameters: int
    stored: int | None
    encoding: str
    reason: str
    bytes_before: int
    bytes_after: int

    @property
    def encoded(self) -> bool:
        """Whether it is not stored dense any more."""
        return self.encoding != "dense"


@dataclass(frozen=True, kw_only=True)
class EncodeReport:
    """One run of `encode` or `decode`. `input`, `output`: file names without folders.

    `load_ratio`: time to make an onnxruntime session of the output against that of the input, None if not measured.
    """

    derived: ClassVar[tuple[str, ...]] = ("size_ratio",)

    schema_version: Literal[1] = 1
    command: Literal["encode", "decode"]
    input: str
    output: str
    encoding: str
    prefer: str
    versions: Versions
    weights: tuple[EncodedWeight, ...]
    files: tuple[FileReport, ...]
    verification: VerificationReport | None = None
    load_ratio: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def size_ratio(self) -> float:
        """Bytes of all files after, by those before."""
        before = sum(file.bytes_before for file in self.files)
        after = sum(file.bytes_after or 0 for file in self.files)
        return after / before if after > before else fraction(after, before)


@dataclass(frozen=True)
class EncodingSize:
    """Bytes of values and places in one encoding: the name of a layout, or "sparse"."""

    encoding: str
    bytes: int


@dataclass(frozen=True)
class WeightEncodings:
    """A weight and what each encoding would take. `dense`: bytes of its values; `reason`: why it can't be encoded.

    `sizes`: of those encodings that can hold it, without the nodes of the packed ones, which take about a kilobyte.
    """

    derived: ClassVar[tuple[str, ...]] = ("smallest",)

    name: str
    shape: tuple[int, ...]
    dtype: str
    parameters: int
    stored: int | None
    dense: int
    sizes: tuple[EncodingSize, ...]
    reason: str

    @property
    def smallest(self) -> str:
        """The name of what takes the fewest bytes."""
        ways = (EncodingSize("dense", self.dense), *self.sizes)
        return min(ways, key=lambda way: way.bytes).encoding


@dataclass(frozen=True, kw_only=True)
class EncodingsReport:
    """One run of `inspect --encodings`."""

    schema_version: Literal[1] = 1
    command: Literal["encodings"] = "encodings"
    input: str
    versions: Versions
    weights: tuple[WeightEncodings, ...]
    models: tuple[ModelEncoding, ...]
