"""`decode_file`: encoded weights become what they were."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import onnx
from onnx import TensorProto, helper

from onnx_tools.encodings.found import Found, find_encoded
from onnx_tools.encodings.report import EncodedWeight, EncodeReport
from onnx_tools.encodings.reread import refuse_broken
from onnx_tools.errors import InvalidModelFile, InvalidTensor, NotEncoded, WriteFailed
from onnx_tools.file_facts import facts_of, file_reports
from onnx_tools.graph_parts import element_count
from onnx_tools.model_copy import ModelCopy
from onnx_tools.model_file import Location, ModelFile, tensor_at
from onnx_tools.records import INITIALIZER, NODE
from onnx_tools.regions import Region, arrange, refuse_overlaps
from onnx_tools.report_parts import versions
from onnx_tools.wire import Path, Rope, field_record, join, records, rope_length

Progress = Callable[[str, int, int], None]
"""Called before each weight with its name, the elements done, and the elements to do."""


def decode_file(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> EncodeReport:
    """Turn every encoded weight of a model back into the tensor that it was, in its old place.

    What `encode_file` wrote becomes byte for byte what it was made from, but for the names of data files. Every weight
    is held against the checksum of its values. Memory is a few times what the largest weight is stored in.

    Args:
        path: the model; external data is found beside it.
        output: the new file, its external data `OUTPUT.data`.
        force: overwrite an existing output.
        progress: told before each weight.

    Raises:
        NotEncoded: no weight is encoded.
        WriteFailed: among others, when the weights take more than the disk has room for; nothing was written.
        InvalidTensor, InvalidModelFile: an encoded weight was changed since; nothing was written.
        PruningError: bad input, see `onnx_tools.errors`; nothing was written.
    """
    model = ModelFile.open(path)
    found = find_encoded(model)
    if not found:
        raise NotEncoded(f"{model.path.name}: no weight is encoded; use the model as it is")
    before = [facts_of(file, hashes=False, compressed=False) for file in (model.path, *model.data_files())]
    with ModelCopy(model, pathlib.Path(output), force=force) as copy:
        _refuse_more_than_fits(found, pathlib.Path(output))
        weights = _decode_into(copy, model, found, progress)
        committed = copy.commit(lambda finished: refuse_broken(finished, found))
    after = [facts_of(file, hashes=False, compressed=False) for file in (committed.model, *committed.data)]
    return EncodeReport(
        command="decode",
        input=model.path.name,
        output=after[0].name,
        encoding="dense",
        prefer="size",
        versions=versions(),
        weights=tuple(weights),
        files=file_reports(before, after),
    )


def _decode_into(
    copy: ModelCopy, model: ModelFile, found: list[Found], progress: Progress | None
) -> list[EncodedWeight]:
    total, done = sum(element_count(item.marker.dims) for item in found), 0
    _refuse_shared_records(found)
    weights: list[EncodedWeight] = []
    regions: list[Region] = []
    for item in found:
        if progress is not None:
            progress(item.name, done, total)
        weights.append(_restore(copy, model, item, regions))
        done += element_count(item.marker.dims)
    refuse_overlaps(model, regions, {path for item in found for path in item.pieces.values()})
    arrange(copy, model, regions)
    return weights


def _refuse_more_than_fits(found: list[Found], output: pathlib.Path) -> None:
    """See that there is room for the weights, twice: they are collected in a file that the model is made from.

    A few bytes may claim to hold gigabytes of zeros. Raises `WriteFailed`.
    """
    sizes = [item.dense_bytes or 0 for item in found]
    needed, free = 2 * sum(sizes), shutil.disk_usage(output.resolve().parent).free
    if needed > free:
        largest = max(sizes)
        raise WriteFailed(
            f"{output}: decoding takes {needed:,} bytes of disk, {free:,} are free. The largest weight, "
            f"{found[sizes.index(largest)].name!r}, says that it has {largest:,}. Free some space, or write to another "
            "disk"
        )


def _refuse_shared_records(found: list[Found]) -> None:
    """Two encoded weights that are made of the same records can't both be put back."""
    taken: set[Path] = set()
    for item in found:
        records = {item.anchor, *item.others}
        if taken & records:
            raise InvalidModelFile(f"weight {item.name!r} is made of what belongs to another one; decode another copy")
        taken |= records


def _restore(copy: ModelCopy, model: ModelFile, item: Found, regions: list[Region]) -> EncodedWeight:
    values: Rope = [copy.store(block.data) for block in item.blocks(model)]
    if item.marker.region is None:
        rope: Rope = [item.marker.before, *values, item.marker.after]
        copy.replace_record(item.anchor, lambda names: rope)
    else:
        region = Region(_old_region(model, item), values)
        regions.append(region)
        copy.replace_record(item.anchor, lambda names: [_moved(item.marker.before, region, names)])
    for path in item.others:
        copy.replace_record(path, lambda names: [])
    return EncodedWeight(
        name=item.name,
        shape=item.marker.dims,
        dtype=_dtype_name(item.marker.data_type),
        parameters=element_count(item.marker.dims),
        stored=None,
        encoding="dense",
        reason=f"was {item.marker.encoding}",
        bytes_before=sum(_tensor_bytes(model, path) for path in item.pieces.values()),
        bytes_after=rope_length(values),
    )


def _dtype_name(data_type: int) -> str:
    return str(helper.tensor_dtype_to_np_dtype(data_type))


def _tensor_bytes(model: ModelFile, path: Path) -> int:
    """Bytes of a tensor's values."""
    tensor = tensor_at(model.skeleton, path)
    location = model.location(path, tensor)
    return len(tensor.raw_data) if location is None else location.length


def _old_region(model: ModelFile, item: Found) -> Location:
    """What the pieces of a weight take in a data file."""
    size = item.marker.region or 0
    places = [model.location(path, tensor_at(model.skeleton, path)) for path in item.pieces.values()]
    inside = [place for place in places if place is not None]
    start = min((place.offset for place in inside), default=0)
    if not inside or any(p.file != inside[0].file or p.offset + p.length > start + size for p in inside):
        raise InvalidTensor(f"weight {item.name!r}: its external data was rearranged; decode an unchanged copy")
    return Location(inside[0].file, start, size)


def _moved(record: bytes, region: Region, names: Mapping[pathlib.Path, str]) -> bytes:
    """The record of a weight with external data, saying where that lies now; unchanged if it says so already."""
    kinds: dict[int, Any] = {INITIALIZER: TensorProto, NODE: onnx.NodeProto}
    try:
        (outer,) = records(memoryview(record), 0, len(record))
        message: Any = kinds[outer.number].FromString(record[outer.body :])
    except Exception:  # KeyError, ValueError, and protobuf's DecodeError, whose module has no types
        raise InvalidModelFile(
            "the marker of an encoded weight is damaged; decode an unchanged copy of the file"
        ) from None
    wanted = {"location": names[region.old.file], "offset": str(region.start)}
    changed = False
    for entry in _tensor_in(message).external_data:
        if entry.value != wanted.get(entry.key, entry.value):
            entry.value, changed = wanted[entry.key], True
    return join(b"", field_record(outer.number, [message.SerializeToString()])) if changed else record


def _tensor_in(message: Any) -> TensorProto:
    if isinstance(message, TensorProto):
        return message
    return next((attribute.t for attribute in message.attribute if attribute.HasField("t")), TensorProto())
