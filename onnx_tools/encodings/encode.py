"""`encode_file`: the zeros of a pruned model leave its file."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_tools.encodings.choice import Prefer
from onnx_tools.encodings.encoder import Encoded, Encoder, Request
from onnx_tools.encodings.found import Found, find_encoded
from onnx_tools.encodings.layouts import LAYOUTS
from onnx_tools.encodings.marker import SPARSE
from onnx_tools.encodings.report import EncodedWeight, EncodeReport
from onnx_tools.encodings.runtime import check_in_runtime, load_ratio
from onnx_tools.encodings.sources import Source, find_sources
from onnx_tools.errors import AlreadyEncoded, VerificationFailed
from onnx_tools.file_facts import facts_of, file_reports
from onnx_tools.graph_index import GraphIndex
from onnx_tools.model_copy import CommittedFiles, ModelCopy
from onnx_tools.model_file import ModelFile, opset_of
from onnx_tools.regions import arrange
from onnx_tools.report import Check, VerificationReport
from onnx_tools.report_parts import runtime_version, versions
from onnx_tools.weights import Weight, find_weights
from oxiprune_gpu import InvalidOption

Progress = Callable[[str, int, int], None]
"""Called before each weight with its name, the elements done, and the elements to do."""

ENCODINGS = ("packed", SPARSE)
"""What `encode_file` can make of a dense weight."""

SPARSE_WARNING = (
    "sparse initializers: onnxruntime loads them, but onnx's shape inference and version converter, onnx_ir and "
    "onnxoptimizer lose them or refuse the model"
)

_UNMEASURED = "the load time could not be measured: onnxruntime is not installed, or refuses the model"


def encode_file(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    encoding: str = "packed",
    prefer: Prefer = "size",
    least_saving: float = 0.05,
    layouts: Sequence[str] | None = None,
    force: bool = False,
    verify: bool = True,
    compressed: bool = False,
    load_time: bool = False,
    progress: Progress | None = None,
) -> EncodeReport:
    """Store the weights of a model without their zeros; the values, and all else in the file, stay what they are.

    "packed" keeps the file plain ONNX: values and places, and standard operators that rebuild the weight, which
    onnxruntime does once, when the session is made. "sparse" makes sparse tensors (COO) of them. Only +0.0 is left
    out, and of int8 and uint8 the most frequent value; -0.0 and NaN are values. What is stored lies where the weight
    lay: in the model file, or in the external data file. Memory is a few times the largest weight.

    The new file is decoded without a runtime before it gets its name, and every weight compared bit by bit.

    Args:
        path: the model; external data is found beside it.
        output: the new file, its external data `OUTPUT.data`.
        encoding: "packed" or "sparse".
        prefer: "size", or "load": of the layouts that pay, the one that is rebuilt fastest.
        least_saving: the fraction of its bytes that a weight must save to be encoded, 0 <= least_saving < 1.
        layouts: names of those that may be used, of `onnx_tools.encodings.layouts.LAYOUTS`; None: all.
        force: overwrite an existing output.
        verify: also load both models in onnxruntime, where it is installed: are the weights rebuilt when the session
            is made, and are the outputs on random inputs the same?
        compressed: also what the files weigh after zstd at level 3.
        load_time: also how much longer onnxruntime takes to make a session.
        progress: told before each weight.

    Raises:
        AlreadyEncoded: decode the model first.
        VerificationFailed: nothing was written.
        PruningError: bad input, see `onnx_tools.errors` and `oxiprune_gpu.errors`; nothing was written.
    """
    _check_options(encoding, prefer, least_saving)
    allowed = frozenset(LAYOUTS if layouts is None else layouts)
    if not allowed <= LAYOUTS.keys():
        raise InvalidOption(f"unknown layout {min(allowed - LAYOUTS.keys())!r}: there are {', '.join(LAYOUTS)}")
    model = ModelFile.open(path)
    refuse_encoded(model)
    weights = find_weights(model.skeleton).weights
    request = Request(encoding, prefer, least_saving, opset_of(model.skeleton), allowed)
    job = _Job(model, pathlib.Path(output), request, force, verify)
    before = [facts_of(f, hashes=False, compressed=compressed) for f in (model.path, *model.data_files())]
    rows, files, checks = job.run(weights, progress)
    after = [facts_of(f, hashes=False, compressed=compressed) for f in (files.model, *files.data)]
    ratio = load_ratio(model.path, files.model) if load_time else None
    unmeasured = (_UNMEASURED,) if load_time and ratio is None else ()
    return EncodeReport(
        command="encode",
        input=model.path.name,
        output=after[0].name,
        encoding=encoding,
        prefer=prefer,
        versions=versions(runtime_version()),
        weights=tuple(rows),
        files=file_reports(before, after),
        verification=checks,
        load_ratio=ratio,
        warnings=(*_warnings(rows, checks), *unmeasured),
    )


def _check_options(encoding: str, prefer: str, least_saving: float) -> None:
    if encoding not in ENCODINGS:
        raise InvalidOption(f"unknown encoding {encoding!r}: use {' or '.join(ENCODINGS)}")
    if prefer not in ("size", "load"):
        raise InvalidOption(f"cannot prefer {prefer!r}: use size or load")
    if not 0 <= least_saving < 1:
        raise InvalidOption(f"least_saving {least_saving} must be in [0.0, 1.0)")


def refuse_encoded(model: ModelFile) -> None:
    """Raise `AlreadyEncoded` if weights of a model are."""
    encoded = find_encoded(model)
    if encoded:
        names = f"'{encoded[0].name}'" + (f" and {len(encoded) - 1} more" if len(encoded) > 1 else "")
        raise AlreadyEncoded(f"{model.path.name}: {names} encoded already; decode the model first")


@dataclass(frozen=True)
class _Job:
    """One model encoded into another file."""

    model: ModelFile
    output: pathlib.Path
    request: Request
    force: bool
    verify: bool

    def run(
        self, weights: Sequence[Weight], progress: Progress | None
    ) -> tuple[list[EncodedWeight], CommittedFiles, VerificationReport]:
        """Encode; return what became of each weight, the files, and the checks that were made."""
        found = find_sources(self.model, weights)
        sources = [found[weight.path] for weight in weights]
        checks: list[Check] = []
        with ModelCopy(self.model, self.output, force=self.force) as copy:
            encoder = Encoder(copy, self.request, free_prefix(self.model.skeleton))
            pairs = zip(_told(weights, progress), sources, strict=True)
            rows = [_row(weight, source, _encoded(encoder, source)) for weight, source in pairs]
            arrange(copy, self.model, encoder.regions)
            changed = [s for s, row in zip(sources, rows, strict=True) if isinstance(s, Source) and row.encoded]
            files = copy.commit(lambda finished: checks.extend(self._checked(finished, changed)))
        return rows, files, VerificationReport(tuple(checks))

    def _checked(self, finished: pathlib.Path, sources: list[Source]) -> Iterator[Check]:
        yield _compare(ModelFile.open(finished), sources)
        if self.verify:
            for check in check_in_runtime(self.model.path, finished):
                if check.outcome == "failed":
                    raise VerificationFailed(f"{self.model.path.name}: {check.detail}. Nothing was written")
                yield check


def _told(weights: Sequence[Weight], progress: Progress | None) -> Iterator[Weight]:
    done, total = 0, sum(weight.elements for weight in weights)
    for weight in weights:
        if progress is not None:
            progress(weight.name, done, total)
        yield weight
        done += weight.elements
    if progress is not None:
        progress("", done, total)


def _encoded(encoder: Encoder, source: Source | str) -> Encoded:
    return Encoded("dense", 0, source) if isinstance(source, str) else encoder.encode(source)


def _row(weight: Weight, source: Source | str, result: Encoded) -> EncodedWeight:
    return EncodedWeight(
        name=weight.name,
        shape=weight.shape,
        dtype=weight.dtype_name,
        parameters=weight.elements,
        stored=result.stored,
        encoding=result.encoding,
        reason=result.reason,
        bytes_before=source.bytes if isinstance(source, Source) else weight.bytes,
        bytes_after=result.bytes if isinstance(source, Source) else weight.bytes,
    )


def free_prefix(model: onnx.ModelProto) -> str:
    """What no name of a value in the model starts with."""
    names = (str(name) for scope in GraphIndex(model).scopes for name in scope.values)  # bytes where not UTF-8
    tails = [name.removeprefix("oxi") for name in names if name.startswith("oxi")]
    return "oxi" + "_" * max((len(tail) - len(tail.lstrip("_")) + 1 for tail in tails), default=0)


def _compare(finished: ModelFile, sources: list[Source]) -> Check:
    """Hold what the new file gives against the old one, weight by weight, bit by bit."""
    found = {(item.name, item.marker.before): item for item in find_encoded(finished)} if sources else {}
    for source in sources:
        item = found.get((source.name, source.before))
        if item is None or not _gives(item, finished, source.values()):
            raise VerificationFailed(
                f"weight {source.weight.name!r} does not decode to what it was. Nothing was written"
            )
    return Check("decoded", "passed", f"encoded weights: {len(found)}; all decode to the same bits")


def _gives(item: Found, model: ModelFile, values: NDArray[Any]) -> bool:
    """Whether an encoded weight has these bits."""
    start = 0
    for block in item.blocks(model):
        if not np.array_equal(block, values[start : start + len(block)]):
            return False
        start += len(block)
    return start == len(values)


def _warnings(rows: list[EncodedWeight], checks: VerificationReport) -> Iterator[str]:
    if not any(row.encoded for row in rows):
        yield "no weight became smaller: the output equals the input, but for the names of data files"
    elif any(row.encoding == SPARSE for row in rows):
        yield SPARSE_WARNING
    yield from (check.detail for check in checks.checks if check.outcome == "warning")
