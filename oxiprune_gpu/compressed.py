"""2:4 matrices without their zeros: the kept values, and metadata that says where they stood.

Two layouts, both documented where they come from:

- "plain": the metadata of `mma.sp` with ordered metadata (PTX ISA, "Sparse matrix storage"), row by row.
- "cutlass": the same in the order in which CUTLASS reads it, as `torch.sparse.SparseSemiStructuredTensorCUTLASS` keeps
  it (CUTLASS, `tools/util/include/cutlass/util/host_reorder.h`, and its layout `ColumnMajorInterleaved<2>`).

What cuSPARSELt makes is not among them: its documentation gives the size of the compressed matrix and the function that
writes it, not what lies in it, and it depends on the algorithm that was selected. Give the pruned matrix to
`cusparseLtSpMMACompress`, or to `torch._cslt_compress`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from oxiprune_gpu.backends import backend_of
from oxiprune_gpu.device_arrays import device_name
from oxiprune_gpu.errors import InvalidOption, NotTwoOfFour, ShapeMismatch
from oxiprune_gpu.tensor import Borrowed, Tensor, borrow, see_array

_MEMBERS = range(4)


@dataclass(frozen=True)
class Compressed24:
    """A 2:4 matrix of shape (rows, columns), compressed by `compress_2_4`.

    Attributes:
        values: (rows, columns / 2), the dtype of the matrix: two values of each group of four neighbours, in order.
            Where a group has fewer that are not zero, zeros fill it up.
        metadata: four bits a group: the place (0 to 3) of its first value in the lower two, of its second one in the
            upper two. In the layout "plain" uint8 of shape (rows, columns / 8), the first of two groups in the lower
            bits; in the layout "cutlass" int16 of shape (rows, columns / 16), four groups a word, reordered.
        layout: "plain" or "cutlass".
    """

    values: Any
    metadata: Any
    layout: str = "plain"


class _Layout(NamedTuple):
    """What a matrix must be a multiple of, the words of the metadata, and the order of these."""

    rows: int
    columns: int
    words: np.dtype[Any]
    reordered: Callable[[Any], Any]
    restored: Callable[[Any], Any]


def _cutlass_order(words: Any) -> Any:
    """Give words the order in which CUTLASS reads them.

    Of every 32 rows, those at a distance of 8 come to stand beside each other; in each block of 2 x 2 words the two off
    the diagonal change places; pairs of columns are stored one after another.
    """
    rows, columns = words.shape
    split = words.reshape(rows // 32, 2, 2, 8, columns // 2, 2)  # a row is 32 g + 16 a + 8 b + c, a column 2 d + e
    return split.transpose(4, 0, 3, 1, 5, 2).reshape(rows, columns)


def _row_order(words: Any) -> Any:
    """Undo `_cutlass_order`."""
    rows, columns = words.shape
    split = words.reshape(columns // 2, rows // 32, 8, 2, 2, 2)
    return split.transpose(1, 3, 5, 2, 0, 4).reshape(rows, columns)


def _as_it_is(words: Any) -> Any:
    return words


LAYOUTS = {
    "plain": _Layout(1, 8, np.dtype(np.uint8), _as_it_is, _as_it_is),
    "cutlass": _Layout(32, 32, np.dtype(np.int16), _cutlass_order, _row_order),
}


def compress_2_4(weight: Tensor, layout: str = "plain") -> Compressed24:
    """Take the zeros out of a 2:4 matrix, along its last axis. The result lies where the matrix lies.

    The matrix is read as bits and -0.0 is a zero: one that does not fill up a group comes back as +0.0. A few copies of
    the matrix are made where it lies; the check that it is 2:4 waits for a GPU.

    Args:
        weight: `WeightTensor` or array of shape (rows, columns), as pruned with the granularity "2:4".
        layout: "plain", any dtype, columns a multiple of 8; or "cutlass", float16 and bfloat16 (for the other dtypes
            its tensor cores want other patterns than 2:4), rows and columns multiples of 32.

    Raises:
        NotTwoOfFour: a group has more than two values that are not zero.
        ShapeMismatch: not a matrix, or its sides are no such multiples.
        InvalidOption: an unknown layout, or a dtype that it does not have.
        UnsupportedDtype, UnsupportedArray.
    """
    rules, matrix = _layout(layout), borrow(weight)
    _check_matrix(matrix, layout, matrix.data.shape)
    rows, columns = matrix.data.shape
    backend = backend_of(matrix.data)
    with backend.device_of(matrix.data):
        data = matrix.contiguous()
        groups = data.view(f"u{data.dtype.itemsize}").reshape(rows, columns // 4, 4)
        first, second = _places(groups, matrix.name)
        values = backend.empty_array((rows, columns // 4, 2), groups.dtype)
        for number, place in enumerate((first, second)):
            values[..., number] = sum(groups[..., member] * (place == member) for member in _MEMBERS)
        values = values.reshape(rows, columns // 2).view(data.dtype)
        words = rules.reordered(_packed(first | second << 2, rules.words))
        return Compressed24(matrix.export(values), matrix.export(words), layout)


def decompress_2_4(compressed: Compressed24) -> Any:
    """Return the matrix that was compressed: an array of the kind of the values.

    Raises:
        NotTwoOfFour: the metadata of a group does not name two places in order.
        ShapeMismatch: values and metadata do not fit each other or the layout.
        InvalidOption: an unknown layout, a dtype that it does not have, or values and metadata on different devices.
        UnsupportedDtype, UnsupportedArray.
    """
    rules, kept = _layout(compressed.layout), borrow(compressed.values, "values")
    shape = (*kept.data.shape[:-1], *(2 * side for side in kept.data.shape[-1:]))
    _check_matrix(kept, compressed.layout, shape)
    rows, columns = shape
    words = _words_of(compressed, rules, rows, columns, kept)
    backend = backend_of(kept.data)
    with backend.device_of(kept.data):
        data = kept.contiguous()
        places = backend.empty_array((rows, columns // 4), np.dtype(np.uint8))
        _unpack(rules.restored(words), places)
        first, second = places & 3, places >> 2
        _refuse(first >= second, "metadata", "does not name two places of four in order")
        values = data.view(f"u{data.dtype.itemsize}").reshape(rows, columns // 4, 2)
        groups = backend.empty_array((rows, columns // 4, 4), values.dtype)
        for member in _MEMBERS:
            groups[..., member] = values[..., 0] * (first == member) | values[..., 1] * (second == member)
        return kept.export(groups.reshape(rows, columns).view(data.dtype))


def _layout(name: str) -> _Layout:
    if name not in LAYOUTS:
        raise InvalidOption(f"unknown layout {name!r}: use {' or '.join(map(repr, LAYOUTS))}")
    return LAYOUTS[name]


def _check_matrix(matrix: Borrowed, layout: str, shape: tuple[int, ...]) -> None:
    """Check the shape of the whole matrix, and the dtype, by the rules of a layout."""
    rules = LAYOUTS[layout]
    if len(shape) != 2 or shape[0] % rules.rows or shape[1] % rules.columns:
        raise ShapeMismatch(
            f"tensor '{matrix.name}' has shape {list(shape)}: the layout {layout!r} is for matrices whose rows are a "
            f"multiple of {rules.rows}, and columns of {rules.columns}"
        )
    if matrix.dtype.itemsize != 2 and layout == "cutlass":
        raise InvalidOption(
            f"tensor '{matrix.name}' is {matrix.dtype}: the layout 'cutlass' is for float16 and bfloat16; use 'plain'"
        )


def _words_of(compressed: Compressed24, rules: _Layout, rows: int, columns: int, kept: Borrowed) -> Any:
    """The metadata as a matrix of unsigned words."""
    words, dtype, _ = see_array(compressed.metadata, "metadata")
    expected = (rows, columns // (8 * rules.words.itemsize))
    if tuple(words.shape) != expected or dtype != rules.words:
        raise ShapeMismatch(
            f"metadata is {dtype} of shape {list(words.shape)}: to values of shape {list(kept.data.shape)} belongs "
            f"{rules.words} of shape {list(expected)}"
        )
    if device_name(words) != device_name(kept.data):
        raise InvalidOption(
            f"values lie on {device_name(kept.data)}, metadata on {device_name(words)}: bring them together"
        )
    return words.view(f"u{words.dtype.itemsize}")


def _places(groups: Any, name: str) -> tuple[Any, Any]:
    """The places of the two values of each group, uint8. Where there are fewer, those of the CUTLASS layout fill up."""
    members = [((groups[..., member] << 1) != 0).astype(np.uint8) for member in _MEMBERS]  # the sign does not count
    _refuse(sum(members) > 2, f"tensor '{name}'", "has more than two values that are not zero: prune it with 2:4 first")
    zeroth, after = members[0], members[3]
    neither = (1 - zeroth) * (1 - members[1])
    both = zeroth * members[1]
    return (1 - zeroth) * (2 - members[1]), both + (1 - both) * (2 + (after | neither))


def _refuse(wrong: Any, what: str, why: str) -> None:
    """Raise for the first group that is wrong. Waits for a GPU."""
    if wrong.any():
        row, group = divmod(int(wrong.reshape(-1).argmax()), wrong.shape[1])
        raise NotTwoOfFour(what, row, group, why)


def _packed(places: Any, dtype: np.dtype[Any]) -> Any:
    """Four bits of each group, as words of a dtype, the first group lowest."""
    groups, unsigned = 2 * dtype.itemsize, np.dtype(f"u{dtype.itemsize}")
    words = places[:, ::groups].astype(unsigned)
    for group in range(1, groups):
        words |= places[:, group::groups].astype(unsigned) << 4 * group
    return words.view(dtype)


def _unpack(words: Any, places: Any) -> None:
    """Undo `_packed`."""
    groups = 2 * words.dtype.itemsize
    for group in range(groups):
        places[:, group::groups] = words >> 4 * group & 15
