"""Convolutions and matrix products as one thing: results that are sums of inputs times stored weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tools.compaction.constants.evaluating import Evaluator
from onnx_tools.compaction.mapping.channels import Ids
from onnx_tools.compaction.mapping.shapes import Shapes
from onnx_tools.compaction.zero_entries import blocks_of
from onnx_tools.graph_parts import Node

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Product:
    """How a node sums inputs times weights. `data`, `weight`, `bias`: its inputs, `bias` -1 if it takes none.

    `along`: the axis of the data that is summed; `axis`: that of the results. `rows`, `columns`: the axes of the weight
    for results and data; a result of one of `groups` takes in data of its group only. `scale`: what sums are multiplied
    by, `bias_scale` the bias. `even`: every sum has all its terms, if not perhaps at borders; `exact`: there too.
    """

    node: Node
    data: int
    along: int
    axis: int
    weight: int
    rows: int
    columns: int
    bias: int = -1
    groups: int = 1
    scale: float = 1.0
    bias_scale: float = 1.0
    exact: bool = True
    even: bool = True


def product_of(node: Node, shapes: Shapes) -> Product | None:
    """How a node multiplies by a stored weight; None if it does not, or in a way that is not known."""
    if node.domain or node.local or len(node.inputs) < 2 or not node.outputs or shapes.of(node.outputs[0]) is None:
        return None
    if node.op_type in ("Conv", "ConvTranspose"):
        return _convolution(node, shapes)
    weights = [index for index in (0, 1) if (value := node.inputs[index]) is not None and value.constant]
    sizes = [shapes.of(value) for value in node.inputs[:2]]
    if len(weights) != 1 or len(sizes[weights[0]] or ()) != 2 or len(sizes[1 - weights[0]] or ()) < 2:
        return None
    if node.op_type == "MatMul":
        return _matrix_product(node, weights[0], len(sizes[1 - weights[0]] or ()))
    return _general_product(node, weights[0]) if node.op_type == "Gemm" else None


def _convolution(node: Node, shapes: Shapes) -> Product | None:
    weight, sizes = node.inputs[1], shapes.of(node.inputs[1])
    groups = node.int_attribute("group", 1)
    if weight is None or not weight.constant or sizes is None or len(sizes) < 3 or groups < 1:
        return None
    bias = 2 if node.has_input(2) else -1
    if node.op_type == "ConvTranspose":
        return Product(node, 0, 1, 1, 1, rows=1, columns=0, bias=bias, exact=False, even=False) if groups == 1 else None
    fills = node.text_attribute("auto_pad").startswith("SAME") and any(size != 1 for size in sizes[2:])
    exact = not fills and not any(node.ints_attribute("pads") or ())
    return Product(node, 0, 1, 1, 1, rows=0, columns=1, bias=bias, groups=groups, exact=exact)


def _matrix_product(node: Node, weight: int, rank: int) -> Product:
    along, columns = (rank - 1, 0) if weight == 1 else (rank - 2, 1)
    return Product(node, 1 - weight, along, along, weight, rows=1 - columns, columns=columns)


def _general_product(node: Node, weight: int) -> Product:
    turned = [bool(node.int_attribute(name, 0)) for name in ("transA", "transB")]
    summed = (int(not turned[0]), int(turned[1]))  # which axis of each operand is summed
    data = 1 - weight
    return Product(
        node,
        data,
        summed[data],
        weight,
        weight,
        rows=1 - summed[weight],
        columns=summed[weight],
        bias=2 if node.has_input(2) else -1,
        scale=_float_attribute(node, "alpha"),
        bias_scale=_float_attribute(node, "beta"),
    )


def _float_attribute(node: Node, name: str) -> float:
    attribute = node.attributes.get(name)
    return 1.0 if attribute is None else float(attribute.f)


def sums(product: Product, evaluator: Evaluator, numbers: Array) -> Numbers | None:
    """What `numbers`, one for each entry along the axis of the data, add up to in each result.

    The weight is read once. None if it can't be, or if its shape doesn't fit.
    """
    found: Numbers | None = None
    for count, rows, matrix, entries in _pieces(product, evaluator, len(numbers)):
        found = np.zeros(count) if found is None else found
        given = numbers[entries].astype(np.float64)
        used = (given != 0).any(0)
        terms = matrix[:, used].sum(2, dtype=np.float64) * given[:, used]
        found[rows] += np.where(given[:, used] != 0, terms, 0).sum(1)
    return None if found is None else found * product.scale


def takes_in(product: Product, evaluator: Evaluator, entries: Mask) -> Mask | None:
    """Which results take in any of these entries along the axis of the data; None as for `sums`."""
    found: Mask | None = None
    for count, rows, matrix, places in _pieces(product, evaluator, len(entries)):
        found = np.zeros(count, bool) if found is None else found
        meant = entries[places]
        used = meant.any(0)
        found[rows] |= ((matrix[:, used] != 0).any(2) & meant[:, used]).any(1)
        if found.all():
            break
    return found


def _pieces(product: Product, evaluator: Evaluator, size: int) -> Iterator[tuple[int, slice, Array, Ids]]:
    """The weight in pieces (results, data, places of the kernel), if it fits data of this size.

    With each the number of all results, those of the piece, and which entry of the data each of its weights is for:
    (results, data), or (1, data) if that is the same for all results.
    """
    weight = product.node.inputs[product.weight]
    source = None if weight is None else evaluator.blocks(weight)
    count, columns = (0, 0) if source is None else (source.shape[product.rows], source.shape[product.columns])
    if source is None or not count or count % product.groups or columns * product.groups != size:
        return
    for place, block in blocks_of(source):
        rows = place[product.rows]
        turned = np.moveaxis(block, (product.rows, product.columns), (0, 1))
        entries = np.arange(columns)[place[product.columns]][None]
        if product.groups > 1:
            entries = entries + np.arange(count)[rows, None] // (count // product.groups) * columns
        yield count, rows, turned.reshape(*turned.shape[:2], -1), entries
