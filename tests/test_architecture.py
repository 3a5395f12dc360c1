"""Imports run one way (docs/design.md, section 4). This reads the source of both packages, and imports neither."""

from __future__ import annotations

import ast
import graphlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ORDER = {
    "oxiprune_gpu": """
        oxiprune_gpu
        pruning plan diagnosis compressed calibrated
        allocation
        jobs
        selection importance sparsity
        config
        backends
        metrics granularity
        outputs
        blocks tensor
        device_arrays
        errors _version
    """,
    "onnx_tools": """
        __main__
        cli
        sensitivity_commands
        compact_commands search_commands
        commands encoding_commands usage doctor
        onnx_tools
        search
        quality
        compaction calibration
        inspection masking comparison terminal preflight encodings
        rewrite verify renderers value_comparison
        account
        report_parts payoff conditions
        masks
        slice_masks regions new_values
        file_facts verification shared_bytes dealing
        plan
        policy_file unit_views
        compact_report
        search_report sensitivity_report
        report
        policy
        plain pictures
        weight_selection weight_values
        weights
        reasons
        readings
        quantisation
        layout zero_patterns op_table
        operators
        graph_index
        body_inputs function_calls
        einsum graph_parts
        values model_copy mask_file
        partial_copy model_file
        temporaries
        file_blocks float_lists records
        wire
        errors naming
    """,
}
"""The rooms of each package from top to bottom: a room imports from lower lines only. Inside a room imports are free,
but make no ring. A new module gets a place here."""

ONLY_IN = {
    "cupy": {"oxiprune_gpu.backends", "oxiprune_gpu.device_arrays"},
    "jinja2": {"onnx_tools.renderers"},
    "rich": {"onnx_tools.terminal", "onnx_tools.renderers"},
}
"""Packages that only some rooms import."""

FOREIGN = {"oxiprune_gpu": {"onnx_tools", "onnx", "onnxruntime", "torch", "rich", "typer", "zstandard"}}
"""Packages that a package never imports."""

OPEN_MODULES = {"oxiprune_gpu", "oxiprune_gpu.errors", "oxiprune_gpu.blocks", "oxiprune_gpu.diagnosis"}
"""What onnx_tools may import from."""

packages = pytest.mark.parametrize("package", ORDER)


class Import(NamedTuple):
    """`module` imports `target`; from it `name`, if that is no module itself."""

    module: str
    target: str
    name: str | None

    def __str__(self) -> str:
        return f"{self.module} imports {self.target}" + (f".{self.name}" if self.name else "")


def folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def modules_of(package: str) -> dict[str, Path]:
    """Dotted name of each module -> its file."""
    folder = folder_of(package)
    files = {path.relative_to(folder.parent).with_suffix(""): path for path in folder.rglob("*.py")}
    return {".".join(name.parts).removesuffix(".__init__"): path for name, path in files.items()}


MODULES = {package: modules_of(package) for package in ORDER}
KNOWN = {module for modules in MODULES.values() for module in modules}


def imports_of(package: str) -> Iterator[Import]:
    """Every import of a package, those inside functions and for type checkers too."""
    for module, path in MODULES[package].items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (Import(module, alias.name, None) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module} has a relative import"
                yield from (resolved(module, node.module or "", alias.name) for alias in node.names)


def resolved(module: str, target: str, name: str) -> Import:
    inner = f"{target}.{name}"
    return Import(module, inner, None) if inner in KNOWN else Import(module, target, name)


def room_of(module: str) -> str:
    """The room of a module: the part after the package, or the package for its face."""
    return module.split(".")[min(1, module.count("."))]


def ranks_of(package: str) -> dict[str, int]:
    lines = ORDER[package].strip().splitlines()
    return {room: -number for number, line in enumerate(lines) for room in line.split()}


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@packages
def test_every_module_has_a_place(package):
    rooms = {room_of(module) for module in MODULES[package]}
    assert rooms <= ranks_of(package).keys(), "say in ORDER where the new module stands"


@packages
def test_rooms_import_from_lower_rooms(package):
    ranks = ranks_of(package)
    inside = [
        (entry, room_of(entry.module), room_of(entry.target))
        for entry in imports_of(package)
        if is_in(entry.target, package)
    ]
    assert [str(entry) for entry, own, other in inside if own != other and ranks[own] <= ranks[other]] == []


def test_the_design_tells_the_same_order():
    page = (Path(__file__).parents[1] / "docs" / "design.md").read_text(encoding="utf-8")
    told = page.split("**Imports run one way**")[1].split("`")[1]
    for package, line in zip(("onnx_tools", "oxiprune_gpu"), told.split("> |"), strict=True):
        rooms = [{room.split()[0] for room in rank.split(",")} for rank in line.split(">")]
        assert rooms == [set(rank.split()) - {"_version"} for rank in ORDER[package].strip().splitlines()]


@packages
def test_no_ring(package):
    graph = {module: set() for module in MODULES[package]}
    for entry in imports_of(package):
        graph[entry.module].add(entry.target)
    tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("package", FOREIGN)
def test_foreign_packages_stay_out(package):
    wrong = [entry for entry in imports_of(package) if entry.target.split(".")[0] in FOREIGN[package]]
    assert list(map(str, wrong)) == []


@packages
@pytest.mark.parametrize("guest", ONLY_IN)
def test_some_packages_have_one_place(package, guest):
    guests = [entry for entry in imports_of(package) if is_in(entry.target, guest)]
    wrong = [entry for entry in guests if not any(is_in(entry.module, room) for room in ONLY_IN[guest])]
    assert list(map(str, wrong)) == []


def test_onnx_tools_uses_public_names():
    import oxiprune_gpu

    used = [entry for entry in imports_of("onnx_tools") if is_in(entry.target, "oxiprune_gpu")]
    assert [str(entry) for entry in used if entry.target not in OPEN_MODULES] == []
    names = {entry.name for entry in used if entry.target == "oxiprune_gpu"}
    assert names <= set(oxiprune_gpu.__all__)
