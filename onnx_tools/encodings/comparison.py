"""What each encoding would make of a model: bytes for every weight, and the whole model written each way."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Iterator

from onnx_tools.encodings.choice import Prefer
from onnx_tools.encodings.decode import Progress, decode_file
from onnx_tools.encodings.encode import encode_file, refuse_encoded
from onnx_tools.encodings.found import find_encoded
from onnx_tools.encodings.layouts import LAYOUTS, Kept
from onnx_tools.encodings.marker import SPARSE
from onnx_tools.encodings.report import EncodeReport, EncodingSize, EncodingsReport, WeightEncodings
from onnx_tools.encodings.sources import Source, find_sources
from onnx_tools.model_file import ModelFile
from onnx_tools.report import ModelEncoding
from onnx_tools.report_parts import runtime_version, versions
from onnx_tools.weights import Weight, find_weights

_WAYS: tuple[tuple[str, Prefer], ...] = (("packed", "size"), ("packed", "load"), (SPARSE, "size"))
_INDEX_BYTES = 8


def compare_encodings(
    path: str | os.PathLike[str], *, load_time: bool = False, progress: Progress | None = None
) -> EncodingsReport:
    """Look at what encodings would make of a model, without changing it.

    The model is written each way into a temporary folder, so the bytes are those of real files; compressed is zstd at
    level 3. `load_time`: also how much longer onnxruntime takes to make a session than for the dense model.

    Raises `AlreadyEncoded`, or a `PruningError` for bad input.
    """
    model = ModelFile.open(path)
    refuse_encoded(model)
    weights = find_weights(model.skeleton).weights
    sources = find_sources(model, weights)
    rows = [_weight(weight, sources[weight.path]) for weight in weights]
    ways = model_encodings(path, load_time=load_time, progress=progress)
    return EncodingsReport(
        input=model.path.name, versions=versions(runtime_version()), weights=tuple(rows), models=ways
    )


def model_encodings(
    path: str | os.PathLike[str], *, load_time: bool = False, progress: Progress | None = None
) -> tuple[ModelEncoding, ...]:
    """What the files of a model take in each encoding, as in `compare_encodings`; it may be an encoded one itself."""
    model = ModelFile.open(path)
    with tempfile.TemporaryDirectory() as name:
        folder, dense = pathlib.Path(name), model.path
        if find_encoded(model):
            dense = folder / "dense.onnx"
            decode_file(model.path, dense)
        return tuple(_model(dense, folder, load_time, progress))


def _weight(weight: Weight, source: Source | str) -> WeightEncodings:
    kept = None if isinstance(source, str) else source.kept()
    return WeightEncodings(
        name=weight.name,
        shape=weight.shape,
        dtype=weight.dtype_name,
        parameters=weight.elements,
        stored=None if kept is None else len(kept.places),
        dense=weight.bytes,
        sizes=() if kept is None else tuple(_payloads(kept)),
        reason=source if isinstance(source, str) else "",
    )


def _payloads(kept: Kept) -> Iterator[EncodingSize]:
    """Bytes of values and places, without the nodes, for each encoding that can hold the weight."""
    for layout in LAYOUTS.values():
        size = layout.payload(kept)
        if size is not None:
            yield EncodingSize(layout.name, size)
    if not kept.fill and len(kept.places):
        yield EncodingSize(SPARSE, len(kept.places) * (kept.bits.itemsize + _INDEX_BYTES))


def _model(
    path: pathlib.Path, folder: pathlib.Path, load_time: bool, progress: Progress | None
) -> Iterator[ModelEncoding]:
    for encoding, prefer in _WAYS:
        report = encode_file(
            path,
            folder / "model.onnx",
            encoding=encoding,
            prefer=prefer,
            force=True,
            verify=False,
            compressed=True,
            load_time=load_time,
            progress=progress,
        )
        if encoding == "packed" and prefer == "size":
            yield _way("dense", "", report, before=True)
        yield _way(encoding, prefer, report, before=False)


def _way(encoding: str, prefer: str, report: EncodeReport, *, before: bool) -> ModelEncoding:
    sizes = [file.bytes_before if before else file.bytes_after or 0 for file in report.files]
    compressed = [(file.compressed_before if before else file.compressed_after) or 0 for file in report.files]
    ratio = 1.0 if before and report.load_ratio is not None else report.load_ratio
    return ModelEncoding(encoding, prefer, sum(sizes), sum(compressed), ratio)
