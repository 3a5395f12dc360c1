"""What changed from one model to another, weight by weight. Nothing is judged: `verify` does that."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import onnx

from onnx_tools.errors import OnnxToolsError
from onnx_tools.file_facts import facts_of
from onnx_tools.model_file import ModelFile, dtype_of, tensor_at
from onnx_tools.plain import safe_text
from onnx_tools.report import ComparedFile, ComparedTensor, CompareReport, Difference
from onnx_tools.report_parts import versions
from onnx_tools.rewrite import Progress
from onnx_tools.value_comparison import ValueChanges, compare_values, count_zeros, same_stored
from onnx_tools.verification.byte_spans import SpanComparer
from onnx_tools.weight_values import WeightReader
from onnx_tools.weights import LeftAlone, Weight, find_weights
from oxiprune_gpu import BlockSource

_MOST_LETTERS = 200
_FIELDS = ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string")

Stored = Weight | LeftAlone


def compare_files(
    before: str | os.PathLike[str],
    after: str | os.PathLike[str],
    *,
    hashes: bool = False,
    compressed: bool = False,
    progress: Progress | None = None,
) -> CompareReport:
    """Compare two models: their weights, their other tensors, their metadata and their files.

    Tensors are matched by name (those in subgraphs and functions by the name that `inspect` shows); a tensor that is a
    weight in either model is listed as one. Quantised weights are compared by the real values they stand for, and are
    equal if what is stored is equal too. Values are read in blocks. Raises `PruningError` if a model can't be read, see
    `onnx_tools.errors`.

    Args:
        before: a model; external data is found beside it.
        after: another one.
        hashes: also the SHA-256 of every file.
        compressed: also what every file weighs after zstd at level 3.
        progress: told before each weight.
    """
    with _Side(ModelFile.open(before)) as old, _Side(ModelFile.open(after)) as new, SpanComparer() as spans:
        compared = list(_Comparer(old, new, spans).tensors(progress))
        others = [tensor for tensor in compared if tensor.kind == "other"]
        return CompareReport(
            before=old.model.path.name,
            after=new.model.path.name,
            versions=versions(),
            weights=tuple(tensor for tensor in compared if tensor.kind == "weight"),
            others=tuple(tensor for tensor in others if not tensor.equal),
            equal_others=sum(tensor.equal for tensor in others),
            metadata=tuple(_differences(old.model.skeleton, new.model.skeleton)),
            files=(*old.files("before", hashes, compressed), *new.files("after", hashes, compressed)),
        )


class _Side(WeightReader):
    """One of the two models, with its files open."""

    def __init__(self, model: ModelFile) -> None:
        super().__init__(model)
        found = find_weights(model.skeleton)
        self.model = model
        stored: tuple[Stored, ...] = (*found.weights, *found.left_alone)
        self.tensors = {item.name: item for item in stored}

    def files(self, side: Literal["before", "after"], hashes: bool, compressed: bool) -> Iterator[ComparedFile]:
        """Its files: the model, then its data."""
        for number, file in enumerate((self.model.path, *self.model.data_files())):
            facts = facts_of(file, hashes=hashes, compressed=compressed)
            role: Literal["model", "data"] = "data" if number else "model"
            yield ComparedFile(side, role, facts.name, facts.size, facts.sha256, facts.compressed)

    def values(self, item: Stored) -> BlockSource | None:
        """The values of a tensor; None if they are no numbers that can be compared."""
        if isinstance(item, Weight):
            return self.weight(item, item.shape)
        try:
            if item.zeros is not None or dtype_of(tensor_at(self.model.skeleton, item.path)) is None:
                return None
            return self.blocks(item.path, item.shape)
        except (OnnxToolsError, ValueError):  # broken, or a sparse tensor
            return None


@dataclass(frozen=True)
class _Comparer:
    before: _Side
    after: _Side
    spans: SpanComparer

    def tensors(self, progress: Progress | None) -> Iterator[ComparedTensor]:
        """Compare every tensor of either model, in the order of the second, then those that only the first has."""
        names = [*self.after.tensors, *(name for name in self.before.tensors if name not in self.after.tensors)]
        total = sum(item.elements for side in (self.before, self.after) for item in side.tensors.values())
        done = 0
        for name in names:
            old, new = self.before.tensors.get(name), self.after.tensors.get(name)
            if progress is not None:
                progress(name, done, total)
            yield self._compared(name, old, new)
            done += sum(item.elements for item in (old, new) if item is not None)

    def _compared(self, name: str, old: Stored | None, new: Stored | None) -> ComparedTensor:
        either = [item for item in (new, old) if item is not None]
        weight = next((item for item in either if isinstance(item, Weight)), None)
        changes = self._changes(old, new)
        return ComparedTensor(
            name=name,
            kind="other" if weight is None else "weight",
            op_types=() if weight is None else weight.op_types,
            shape_before=None if old is None else old.shape,
            shape_after=None if new is None else new.shape,
            dtype_before=None if old is None else old.dtype_name,
            dtype_after=None if new is None else new.dtype_name,
            parameters=either[0].elements,
            zeros_before=changes.zeros_before if changes else _zeros(self.before, old),
            zeros_after=changes.zeros_after if changes else _zeros(self.after, new),
            newly_zero=changes.newly_zero if changes else None,
            newly_nonzero=changes.newly_nonzero if changes else None,
            changed=changes.changed if changes else None,
            max_abs=changes.max_abs if changes else None,
            equal=self._equal(old, new, changes),
        )

    def _changes(self, old: Stored | None, new: Stored | None) -> ValueChanges | None:
        if old is None or new is None or old.shape != new.shape:
            return None
        values_before, values_after = self.before.values(old), self.after.values(new)
        if values_before is None or values_after is None:
            return None
        return compare_values(values_before, values_after)

    def _equal(self, old: Stored | None, new: Stored | None, changes: ValueChanges | None) -> bool:
        if old is None or new is None or (old.shape, old.dtype_name) != (new.shape, new.dtype_name):
            return False
        if changes is not None and (changes.differing or not (_quantised(old) or _quantised(new))):
            return not changes.differing
        return same_stored(self.spans, (self.before.model, old.path), (self.after.model, new.path))


def _quantised(item: Stored) -> bool:
    """Whether different codes can stand for one value: with a scale of 0 all do."""
    return isinstance(item, Weight) and item.quantisation is not None


def _zeros(side: _Side, item: Stored | None) -> int | None:
    source = None if item is None else side.values(item)
    return None if source is None else count_zeros(source)


def _differences(before: onnx.ModelProto, after: onnx.ModelProto) -> Iterator[Difference]:
    """What differs besides tensors and files, by what it is; texts are cut."""
    old, new = _facts(before), _facts(after)
    for key in dict.fromkeys((*old, *new)):
        if old.get(key) != new.get(key):
            yield Difference(key, *(None if facts.get(key) is None else _cut(facts[key]) for facts in (old, new)))


def _facts(model: onnx.ModelProto) -> dict[str, str]:
    facts = {name: str(getattr(model, name)) for name in _FIELDS if model.HasField(name)}
    facts |= {f"opset {entry.domain or 'ai.onnx'}": str(entry.version) for entry in model.opset_import}
    facts["graph"] = safe_text(model.graph.name)
    facts |= {f"input {_text(value.name)}": _signature(value) for value in model.graph.input}
    facts |= {f"output {_text(value.name)}": _signature(value) for value in model.graph.output}
    counts = Counter(_text(node.op_type) for node in model.graph.node)
    facts |= {f"nodes {op_type}": str(count) for op_type, count in counts.items()}
    facts |= {f"function {_text(function.name)}": f"{len(function.node)} nodes" for function in model.functions}
    facts |= {f"metadata {_text(entry.key)}": safe_text(entry.value) for entry in model.metadata_props}
    return facts


def _signature(value: onnx.ValueInfoProto) -> str:
    """Like "float32[N, 3]"; of what is no tensor only the kind."""
    kind = value.type.WhichOneof("value") or "untyped"
    if kind != "tensor_type":
        return kind
    tensor = value.type.tensor_type
    known = onnx.TensorProto.DataType.values()
    name = onnx.TensorProto.DataType.Name(tensor.elem_type).lower() if tensor.elem_type in known else "unknown"
    dims = [_text(dim.dim_param) if dim.dim_param else str(dim.dim_value) for dim in tensor.shape.dim[:16]]
    return f"{name}[{', '.join(dims)}]" if tensor.HasField("shape") else name


def _text(given: str | bytes) -> str:
    return _cut(safe_text(given))


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}..."
