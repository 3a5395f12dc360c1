"""Is a model file the pruned form of another: every byte outside the weights equal, and inside them only zeros new?

Tensors are paired by their path. What differs between two tensors is taken apart into the values, which are compared
element by element, and the rest, which must be equal as the whole frame must. External data files are paired in the
order of first use, since their names change, and compared from the first byte to the last.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from onnx_tools.errors import InvalidModelFile, OnnxToolsError
from onnx_tools.float_lists import as_tensor, shell
from onnx_tools.model_file import Location, ModelFile, dtype_of, iter_float_lists, iter_tensors
from onnx_tools.quantisation.codes import WeightCodes
from onnx_tools.quantisation.kinds import KINDS
from onnx_tools.values import ValueReader
from onnx_tools.verification.byte_spans import Difference, Rule, SpanComparer, Violation
from onnx_tools.verification.frame_check import compare_frames
from onnx_tools.verification.metadata import METADATA_KEY
from onnx_tools.verification.tensor_values import (
    located,
    serialised,
    shell_of,
    value_bytes,
    values_of,
    whole_tensor,
)
from onnx_tools.weights import Weight, find_weights
from onnx_tools.wire import Path

_NOT_A_ZERO = "a value changed to something else than +0.0"
_NOT_FINITE = "a value became NaN or infinite"
_NOT_THE_ZERO_POINT = "a value changed to something else than the zero point"
_NOT_ALLOWED = "a value changed that was to be left alone"


@dataclass(frozen=True, slots=True)
class ZeroedTensor:
    """A tensor that pruning changed, as it may: `newly_zero` nonzero elements and `signs` times -0.0 became +0.0.

    `refitted`: elements that became another number, in a tensor that was repaired.
    """

    name: str
    path: Path
    newly_zero: int
    signs: int = 0
    refitted: int = 0


@dataclass(frozen=True, slots=True)
class ByteComparison:
    """Two models compared byte by byte. No violations: the second is the first with more zeros, and nothing else."""

    zeroed: tuple[ZeroedTensor, ...]
    violations: tuple[Violation, ...]

    @property
    def newly_zero(self) -> int:
        """Elements that became zero, of all tensors. Tensors that share their bytes count each."""
        return sum(tensor.newly_zero for tensor in self.zeroed)


def more_text(zeroed: Collection[ZeroedTensor]) -> str:
    """What to add about zeros that lost their sign, and values that were refitted; "" if there are none."""
    signs, refitted = sum(tensor.signs for tensor in zeroed), sum(tensor.refitted for tensor in zeroed)
    text = f" and {signs:,} negative zeros became +0.0" if signs else ""
    return f"{text}, {refitted:,} were refitted" if refitted else text


@dataclass(frozen=True, slots=True)
class _Pair:
    """A tensor before and after. `rule`: what its values are, and may become; None for values that are only bytes.

    `lists`: the attributes that hold it, if it is a list of floats.
    """

    path: Path
    before: TensorProto
    after: TensorProto
    rule: Rule | None
    lists: tuple[AttributeProto, AttributeProto] | None = None

    @property
    def shells(self) -> tuple[bytes, bytes]:
        """What is stored around the values."""
        if self.lists is not None:
            return shell(self.lists[0]), shell(self.lists[1])
        return shell_of(self.before), shell_of(self.after)

    @property
    def name(self) -> str:
        return f"tensor {self.before.name!r}" if self.before.name else "tensor " + _path_text(self.path)

    @property
    def broken(self) -> str:
        """What to say of a value that broke the rule."""
        if self.rule is None:
            return "a value changed"
        if self.rule.finite and self.rule.zeros:
            return _NOT_FINITE
        return _NOT_THE_ZERO_POINT if self.rule.codes else _NOT_A_ZERO if self.rule.zeros else _NOT_ALLOWED


def compare_bytes(
    before: pathlib.Path,
    after: pathlib.Path,
    *,
    allowed: Collection[Path] | None = None,
    refitted: Collection[Path] = (),
) -> ByteComparison:
    """Compare the model at `after` with the one at `before` that it was made from.

    Float tensors (float16, bfloat16, float32, float64) may have elements that are newly +0.0, quantised weights such
    that are newly their zero point; with `allowed`, only the tensors at those paths. Floats at the paths `refitted` may
    have become any finite number. Everything else must be equal, our
    own metadata entry and the names of data files excepted. Memory stays small whatever the size. Raises
    `InvalidModelFile` or `InvalidExternalData` if one of the models or its data cannot be read.
    """
    try:
        with SpanComparer() as spans:
            return _Comparison(ModelFile.open(before), ModelFile.open(after), allowed, refitted, spans).run()
    except OSError as error:
        raise InvalidModelFile(f"{after}: cannot be compared with {before}: {error.strerror or error}") from error


class _Comparison:
    def __init__(
        self,
        before: ModelFile,
        after: ModelFile,
        allowed: Collection[Path] | None,
        refitted: Collection[Path],
        spans: SpanComparer,
    ) -> None:
        self._before = before
        self._after = after
        self._spans = spans
        self._allowed = None if allowed is None else frozenset(allowed)
        self._refitted = frozenset(refitted)
        self._zeroed: dict[Path, ZeroedTensor] = {}
        self._violations: list[Violation] = []
        self._edits: tuple[dict[Path, bytes | None], dict[Path, bytes | None]] = ({}, {})

    def run(self) -> ByteComparison:
        pairs = list(self._pairs())
        for pair in pairs:
            if not _is_external(pair):
                self._compare_inline(pair)
        self._compare_data_files([pair for pair in pairs if _is_external(pair)])
        self._leave_out_metadata()
        self._violations += compare_frames(self._before, self._after, *self._edits)
        order = {pair.path: index for index, pair in enumerate(pairs)}
        zeroed = sorted(self._zeroed.values(), key=lambda tensor: order[tensor.path])
        return ByteComparison(tuple(zeroed), tuple(self._violations))

    def _pairs(self) -> Iterator[_Pair]:
        """Pair the tensors; a tensor that came or went would shift those behind it, so names must agree."""
        old, new = dict(iter_tensors(self._before.skeleton)), dict(iter_tensors(self._after.skeleton))
        names = [Counter(tensor.name for tensor in tensors.values()) for tensors in (old, new)]
        self._violations += [Violation(f"tensor {name!r}", "is missing") for name in names[0] - names[1]]
        self._violations += [Violation(f"tensor {name!r}", "was added") for name in names[1] - names[0]]
        for path, before in old.items():
            after = new.get(path)
            if after is None or after.name != before.name:
                continue
            same = before.data_type == after.data_type and before.dims == after.dims
            yield _Pair(path, before, after, self._rule(path, before) if same else None)
        yield from self._pairs_of_lists()

    def _pairs_of_lists(self) -> Iterator[_Pair]:
        """Pair the lists of floats that can be weights; what is not paired must be equal, as the frame must."""
        new = dict(iter_float_lists(self._after.skeleton))
        for path, before in iter_float_lists(self._before.skeleton):
            after = new.get(path)
            if after is not None and (after.name, len(after.floats)) == (before.name, len(before.floats)):
                pair = as_tensor(before), as_tensor(after)
                yield _Pair(path, *pair, self._rule(path, pair[0]), (before, after))

    def _rule(self, path: Path, tensor: TensorProto) -> Rule | None:
        allowed = self._allowed is None or path in self._allowed
        dtype = dtype_of(tensor)
        if dtype is not None:
            refitted = path in self._refitted
            return Rule(dtype, allowed or refitted, finite=refitted)
        codes = self._codes_of(path) if allowed and tensor.data_type in KINDS else None
        return None if codes is None else Rule(zeros=True, codes=codes)

    def _codes_of(self, path: Path) -> WeightCodes | None:
        """The codes of a quantised weight; None if the tensor is none, or its scales or zero points can't be read."""
        weight = self._weights.get(path)
        if weight is None or weight.quantisation is None:
            return None
        with contextlib.suppress(OnnxToolsError), ValueReader(self._before) as reader:
            return WeightCodes(weight.quantisation, weight.name, reader.small)
        return None

    @cached_property
    def _weights(self) -> dict[Path, Weight]:
        return {weight.path: weight for weight in find_weights(self._before.skeleton).weights}

    def _compare_inline(self, pair: _Pair) -> None:
        old, new = self._before.payloads.get(pair.path), self._after.payloads.get(pair.path)
        if old is not None and new is not None and (old.field, old.length) == (new.field, new.length):
            rule = pair.rule if located(self._before, pair.path, pair.before) else None
            places = (self._before.path, old.offset), (self._after.path, new.offset)
            self._note(pair, self._spans.compare(*places, old.length, rule or Rule()))
        elif old is None and new is None and serialised(pair.before) == serialised(pair.after):
            return
        else:
            self._compare_values(pair)
        if serialised(pair.before) != serialised(pair.after):
            self._edits[0][pair.path], self._edits[1][pair.path] = pair.shells

    def _compare_values(self, pair: _Pair) -> None:
        """Compare values of which at least one side lies in the skeleton: small, split up, or stored as varints."""
        values = [
            value_bytes(self._spans, model, pair.path, tensor) if pair.rule is not None else None
            for model, tensor in ((self._before, pair.before), (self._after, pair.after))
        ]
        if pair.rule is not None and values[0] is not None and values[1] is not None:
            self._note(pair, pair.rule.compare(values[0], values[1]))
            return
        old, new = self._whole(pair)
        if values_of(old) != values_of(new):
            self._violations.append(_other_difference(pair, old, new))

    def _whole(self, pair: _Pair) -> tuple[TensorProto, TensorProto]:
        """Both tensors with their payloads back in."""
        return (
            whole_tensor(self._spans, self._before, pair.path, pair.before),
            whole_tensor(self._spans, self._after, pair.path, pair.after),
        )

    def _note(self, pair: _Pair, found: Difference) -> None:
        if found.newly_zero or found.signs or found.refitted:
            name = pair.before.name or _path_text(pair.path)
            counts = found.newly_zero, found.signs, found.refitted
            self._zeroed[pair.path] = ZeroedTensor(name, pair.path, *counts)
        if found.index is not None:
            self._violations.append(found.violation(pair.name, pair.broken))

    def _compare_data_files(self, pairs: list[_Pair]) -> None:
        old, new = self._before.data_files(), self._after.data_files()
        if len(old) != len(new):
            self._violations.append(Violation("external data", f"{len(old)} files before, {len(new)} after"))
        regions: list[dict[tuple[int, int], list[_Pair]]] = [{} for _ in old]
        for pair in pairs:
            number = old.index(self._before.data_file(pair.before) or self._before.path)
            if new.index(self._after.data_file(pair.after) or self._after.path) != number:
                self._violations.append(Violation(pair.name, "lies in another data file"))
                continue
            self._leave_out_location(pair, number)
            self._compare_strays(pair)
            place = located(self._before, pair.path, pair.before)
            if place is not None and place == self._replaced(pair, place):
                regions[number].setdefault((place.offset, place.length), []).append(pair)
        for files in zip(old, new, regions, strict=False):
            self._compare_data_file(*files)

    def _compare_strays(self, pair: _Pair) -> None:
        """Values inside the model that a tensor has besides its external ones: a contradiction, which must stay."""
        old, new = self._whole(pair)
        if (old is not pair.before or new is not pair.after) and values_of(old) != values_of(new):
            self._violations.append(Violation(pair.name, "its values differ"))

    def _replaced(self, pair: _Pair, place: Location) -> Location | None:
        """Where the values lie after, said of the file before."""
        after = located(self._after, pair.path, pair.after)
        return None if after is None else Location(place.file, after.offset, after.length)

    def _compare_data_file(
        self, old: pathlib.Path, new: pathlib.Path, regions: dict[tuple[int, int], list[_Pair]]
    ) -> None:
        if old.samefile(new):
            return
        sizes = old.stat().st_size, new.stat().st_size
        if sizes[0] != sizes[1]:
            self._violations.append(Violation(f"data file {new.name}", f"{sizes[0]} bytes became {sizes[1]}"))
            return
        for (offset, length), pairs in sorted(regions.items(), key=lambda region: region[0]):
            for rule, alike in _grouped(pairs).items():
                found = self._spans.compare((old, offset), (new, offset), length, rule)
                for pair in alike:
                    self._note(pair, found)
        for start, stop in _gaps(list(regions), sizes[0]):
            found = self._spans.compare((old, start), (new, start), stop - start)
            if found.index is not None:
                found = replace(found, index=start + found.index)
                self._violations.append(found.violation(f"data file {new.name}", "a byte outside all tensors changed"))

    def _leave_out_location(self, pair: _Pair, number: int) -> None:
        """Compare the number of the data file in the place of its name."""
        for tensor, edits in zip((pair.before, pair.after), self._edits, strict=True):
            for index, entry in enumerate(tensor.external_data):
                if entry.key == "location":
                    same = onnx.StringStringEntryProto(key="location", value=f"data file {number}")
                    edits[(*pair.path, ("external_data", index))] = same.SerializeToString()

    def _leave_out_metadata(self) -> None:
        for model, edits in zip((self._before, self._after), self._edits, strict=True):
            for index, entry in enumerate(model.skeleton.metadata_props):
                if entry.key == METADATA_KEY:
                    edits[("metadata_props", index),] = None


def _is_external(pair: _Pair) -> bool:
    """Whether both are; if only one is, the frames differ."""
    return pair.before.data_location == pair.after.data_location == TensorProto.EXTERNAL


def _grouped(pairs: list[_Pair]) -> dict[Rule, list[_Pair]]:
    """Tensors that share their bytes need one look for each rule."""
    groups: dict[Rule, list[_Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.rule or Rule(), []).append(pair)
    return groups


def _gaps(regions: list[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """Yield the (start, stop) of a file that no region (offset, length) covers."""
    done = 0
    for offset, length in sorted(regions):
        if offset > done:
            yield done, offset
        done = max(done, offset + length)
    if done < size:
        yield done, size


def _other_difference(pair: _Pair, before: TensorProto, after: TensorProto) -> Violation:
    """Say which element differs in tensors that are not float, where they can be read."""
    try:
        old, new = (numpy_helper.to_array(tensor).ravel() for tensor in (before, after))
        first = int((old != new).argmax())
        return Violation(pair.name, pair.broken, first, str(old[first]), str(new[first]))
    except Exception:  # hostile tensors: onnx raises whatever numpy does
        return Violation(pair.name, "its values differ")


def _path_text(path: Path) -> str:
    return ".".join(f"{name}[{index}]" for name, index in path)
