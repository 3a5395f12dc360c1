"""Every format, with the names that anyone may write into a model."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import subprocess
import sys

import pytest
from rich.console import Console

from onnx_tools import renderers
from onnx_tools.errors import WriteFailed
from onnx_tools.renderers import RENDERERS, markdown_renderer, renderer_for, table_renderer, text, write_report
from onnx_tools.report import (
    Check,
    Configuration,
    FileReport,
    InspectedWeight,
    InspectReport,
    LeftAloneReport,
    OutputDrift,
    PruneReport,
    VerificationReport,
    Versions,
    WeightReport,
)
from oxiprune_gpu import InvalidOption, ScoreStats

NASTY = [
    "a,b;c",
    'say "hi"',
    "two\nlines\r\nthree\rfour",
    "=cmd()",
    "+1",
    "-1",
    "@SUM(A1)",
    "\tx",
    "|pipe\\|",
    "<script>alert(1)</script>",
    "[red]x[/red]",
    "[/]",
    "`tick``",
    "\udcff\ud800",
    "\x1b[31m\x00",
    "\u202eright",
    "https://example.org www.example.org",
    "wörter 重み",
    "",
    "x" * 5000,
]
STATS = ScoreStats(0.0, math.inf, 0.5, 0.25, math.nan)


def weight(name: str = "conv.weight", **more: object) -> WeightReport:
    given = {
        "name": name,
        "op_types": ("Conv",),
        "consumers": ("conv", "conv2"),
        "shape": (4, 2),
        "dtype": "float32",
        "parameters": 8,
        "bytes": 32,
        "nonzero_before": 8,
        "nonzero_after": 4,
        "pruned": 4,
        "target_sparsity": 0.5,
        "metric": "l1",
        "granularity": "unstructured",
    }
    return WeightReport(**(given | more))


def pruned(**more: object) -> PruneReport:
    given = {
        "input": "model.onnx",
        "output": "pruned.onnx",
        "dry_run": False,
        "changed": True,
        "configuration": Configuration(0.5, "l1", "unstructured", 1, (), (), 2048, False),
        "versions": Versions("0.1.0", "3.11.9", "2.3.0", "1.18.0", "1.20.0"),
        "weights": (weight(),),
        "left_alone": (
            LeftAloneReport("conv.bias", (4,), "float32", 4, "bias of Conv"),
            LeftAloneReport("fc.bias", (2,), "float32", 2, "bias of Gemm"),
            LeftAloneReport("conv2.bias", (6,), "float32", 6, "bias of Conv"),
        ),
        "files": (FileReport("model", "model.onnx", "pruned.onnx", 1000, 1010),),
    }
    return PruneReport(**(given | more))


def inspected(**more: object) -> InspectReport:
    weights = (
        InspectedWeight("fc.weight", ("Gemm",), ("fc",), (2, 4), "float32", 8, 32, 4, 2, 0, 4, 1, 2, 1),
        InspectedWeight("dw", ("Conv",), ("dw",), (4, 1, 3, 3), "float16", 36, 72, 36, depthwise=True),
    )
    given = {
        "input": "model.onnx",
        "versions": Versions("0.1.0", "3.11.9", "2.3.0", "1.18.0"),
        "weights": weights,
        "left_alone": (LeftAloneReport("bias", (2,), "float32", 2, "bias of Gemm"),),
        "files": (FileReport("model", "model.onnx", None, 1000, None),),
    }
    return InspectReport(**(given | more))


def nasty_report(name: str) -> PruneReport:
    return pruned(
        input=name,
        output=name,
        weights=(weight(name, op_types=(name,), consumers=(name,), scores=STATS), weight("none", parameters=0)),
        left_alone=(LeftAloneReport(name, (-1, 2**62) * 300, "int64", 2**62 << 40_000, name),),
        files=(FileReport("model", name, name, 1, 1),),
        verification=VerificationReport(
            (Check(name, "failed", name),), (OutputDrift(name, math.nan, None, 1.0, name),)
        ),
        warnings=(name,),
    )


def nasty_inspection(name: str) -> InspectReport:
    found = InspectedWeight(name, (name,), (name,), (), "float32", 1, 4, 0, depthwise=True)
    return inspected(input=name, weights=(found,), warnings=(name,))


EMPTY = [
    pruned(weights=(), left_alone=(), files=(), output=None, dry_run=True),
    inspected(weights=(), left_alone=(), files=()),
]


def shown(report, width: int = 80, encoding: str = "utf-8", *, terminal: bool = False) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, newline="")
    table_renderer.print_report(report, Console(file=file, width=width, force_terminal=terminal, legacy_windows=False))
    file.flush()
    return raw.getvalue().decode(encoding)


def stripped(printed: str) -> str:
    return "\n".join(line.rstrip() for line in printed.splitlines()) + "\n"


def rows_of(rendered: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(rendered, newline="")))


def test_csv():
    assert RENDERERS["csv"].render(pruned(weights=(weight(scores=STATS),))).split("\r\n") == [
        "status,name,op_types,consumers,shape,dtype,parameters,bytes,nonzero_before,nonzero_after,pruned,"
        "target_sparsity,metric,granularity,rule,dense_remainder,backend,refitted,sparsity_before,sparsity_after,"
        "score_min,score_max,score_mean,score_median,score_std_dev,reason",
        "pruned,conv.weight,Conv,conv; conv2,4x2,float32,8,32,8,4,4,0.5,l1,unstructured,,0,cpu,0,0.0,0.5,"
        "0.0,Infinity,0.5,0.25,NaN,",
        "left alone,conv.bias,,,4,float32,4,,,,,,,,,,,,,,,,,,,bias of Conv",
        "left alone,fc.bias,,,2,float32,2,,,,,,,,,,,,,,,,,,,bias of Gemm",
        "left alone,conv2.bias,,,6,float32,6,,,,,,,,,,,,,,,,,,,bias of Conv",
        "",
    ]


def test_csv_of_an_inspection():
    rows = rows_of(RENDERERS["csv"].render(inspected()))
    assert [row["status"] for row in rows] == ["weight", "weight", "left alone"]
    assert (rows[0]["zero_columns"], rows[0]["columns"], rows[0]["is_2_4"]) == ("1", "4", "false")
    assert (rows[1]["rows"], rows[1]["sparsity"], rows[1]["depthwise"]) == ("", "1.0", "true")
    assert (rows[2]["zeros"], rows[2]["reason"]) == ("", "bias of Gemm")


SPARSE = LeftAloneReport("s", (4, 5), "float32", 20, "stored sparse: decode it first", 17)


def test_zeros_of_sparse_tensors_are_counted():
    report = inspected(left_alone=(SPARSE,))
    assert rows_of(RENDERERS["csv"].render(report))[2]["zeros"] == "17"
    assert "| stored sparse: decode it first | 1 | 20 (17 zero) | s |" in RENDERERS["md"].render(report)
    assert json.loads(RENDERERS["json"].render(report))["left_alone"][0]["zeros"] == 17


def test_optional_weights_are_marked():
    table = InspectedWeight("e", ("Gather",), ("e",), (2, 4), "float32", 8, 32, 4, optional="embedding")
    assert "| e | Gather (embedding) |" in RENDERERS["md"].render(inspected(weights=(table,)))


def test_csv_says_unchanged():
    report = pruned(weights=(weight(nonzero_before=4),))
    assert rows_of(RENDERERS["csv"].render(report))[0]["status"] == "unchanged"


@pytest.mark.parametrize("name", NASTY)
def test_csv_keeps_names_and_starts_no_formula(name):
    rows = rows_of(RENDERERS["csv"].render(nasty_report(name)))
    assert len(rows) == 3
    kept = name.encode(errors="backslashreplace").decode()
    for cell in (rows[0]["name"], rows[0]["op_types"], rows[2]["reason"]):
        assert cell in (kept, f"'{kept}")
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


def test_csv_numbers_keep_their_sign():
    stats = ScoreStats(-1.5, -math.inf, -0.25, 0.0, 0.0)
    row = rows_of(RENDERERS["csv"].render(pruned(weights=(weight(scores=stats),))))[0]
    assert (row["score_min"], row["score_max"], row["score_mean"]) == ("-1.5", "-Infinity", "-0.25")


def test_markdown():
    report = pruned(
        verification=VerificationReport((Check("bytes", "passed", "equal"),), (OutputDrift("y", 0.25, 1e-9, 1.0),)),
        warnings=("mind the gap",),
    )
    assert RENDERERS["md"].render(report) == MARKDOWN


MARKDOWN = """\
# Pruning of model.onnx

- **Warning:** mind the gap

## Summary

| Total | Value |
|---|---|
| Weights | 1 |
| Parameters of the weights | 8 |
| Parameters of the model | 20 |
| Tensors left alone | 3 |
| Weights pruned on the GPU | 0 |
| Parameters that fell | 4 |
| Zeros in the weights | 0 -> 4 |
| Sparsity of the weights | 0.0000 -> 0.5000 |
| Bytes of the files | 1,000 -> 1,010 |

## Checks

| Check | Outcome | Detail |
|---|---|---|
| bytes | passed | equal |

## Drift of the outputs

| Output | Relative L2 | Largest difference | Cosine | Note |
|---|---|---|---|---|
| y | 0.25 | 1e-09 | 1.000000 |  |

<details>
<summary>Weights (1)</summary>

| Weight | Operator | Shape | Type | Parameters | Nonzero before | Nonzero after | Target | Reached | Backend |
|---|---|---|---|---:|---:|---:|---:|---:|---:|
| conv.weight | Conv | 4x2 | float32 | 8 | 8 | 4 | 0.5 | 0.5000 | cpu |

</details>

<details>
<summary>Left alone (3)</summary>

| Reason | Tensors | Parameters | Names |
|---|---|---|---|
| bias of Conv | 2 | 10 | conv.bias, conv2.bias |
| bias of Gemm | 1 | 2 | fc.bias |

</details>

<details>
<summary>Files</summary>

| File | Role | Bytes | Compressed (zstd-3) | SHA-256 before | SHA-256 after |
|---|---|---|---|---|---|
| model.onnx -> pruned.onnx | model | 1,000 -> 1,010 | - | - | - |

</details>

<details>
<summary>Configuration</summary>

| Option | Value |
|---|---|
| sparsity | 0.5 |
| metric | l1 |
| granularity | unstructured |
| min-nonzero | 1 |
| include | all |
| exclude | none |
| min-elements | 2,048 |
| depthwise | left alone |
| embeddings | left alone |
| linear-models | left alone |
| allocation | uniform |
| floor | 0.0 |
| ceiling | 1.0 |
| target | weights |

</details>

<details>
<summary>Versions</summary>

| Program | Version |
|---|---|
| oxiprune | 0.1.0 |
| Python | 3.11.9 |
| numpy | 2.3.0 |
| onnx | 1.18.0 |
| onnxruntime | 1.20.0 |

</details>
"""


@pytest.mark.parametrize("make", [nasty_report, nasty_inspection])
@pytest.mark.parametrize("name", NASTY)
def test_markdown_holds_nasty_names(name, make):
    rendered = RENDERERS["md"].render(make(name))
    assert set(re.findall("<[^>]*>?", rendered)) <= {"<details>", "<summary>", "</summary>", "</details>"}
    assert "://" not in rendered
    assert all(line.isprintable() for line in rendered.split("\n"))
    for table in re.findall(r"(?:^\|.*\n)+", rendered, re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table.splitlines()}
        assert len(columns) == 1


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("layer_1.conv_weight", "layer_1.conv_weight"),
        ("__init__", r"\_\_init\_\_"),
        ("a|b`c\\", r"a\|b\`c" + "\\\\"),
        ("<b>&", "&lt;b>&amp;"),
        ("two\nlines", r"two\\nlines"),
        ("*x* [y](z) ~s~", r"\*x\* \[y\](z) \~s\~"),
    ],
)
def test_markdown_escape(name, escaped):
    assert markdown_renderer.escape(name) == escaped


def test_markdown_counts_names_that_it_leaves_out():
    biases = tuple(LeftAloneReport(f"b{i}", (1,), "float32", 1, "bias of Conv") for i in range(7))
    assert "| bias of Conv | 7 | 7 | b0, b1, b2, b3, b4, and 2 more |" in RENDERERS["md"].render(
        pruned(left_alone=biases)
    )


@pytest.mark.parametrize("name", NASTY)
def test_json_is_ascii_and_reads_back(name):
    rendered = RENDERERS["json"].render(nasty_report(name))
    assert rendered.isascii()
    assert json.loads(rendered)["weights"][0]["name"] == name.encode(errors="backslashreplace").decode()


@pytest.mark.parametrize("report", EMPTY)
@pytest.mark.parametrize("name", RENDERERS)
def test_empty_reports(report, name):
    assert RENDERERS[name].render(report).endswith("\n")
    assert "0 weights, 0 of 0 parameters" in shown(report)


TABLE = """\
model.onnx -> pruned.onnx (unstructured, l1, sparsity 0.5)

weight       op    shape    dtype  parameters  nonzero  target  reached
conv.weight  Conv    4x2  float32           8   8 -> 4     0.5   0.5000

Left alone
reason        tensors  parameters
bias of Conv        2          10
bias of Gemm        1           2

Total: 1 weights, 8 of 20 parameters; zeros 0 -> 4; sparsity 0.0000 -> 0.5000

Files
file                                bytes  compressed (zstd-3)
model.onnx -> pruned.onnx  1,000 -> 1,010            900 -> 50

Checks
check  outcome  detail
bytes  passed   equal

Drift of the outputs
output  relative L2  max abs    cosine  note
y              0.25    1e-09  1.000000

Warning: mind the gap
"""


MIXED = pruned(
    weights=(
        weight("a", granularity="row", metric="l2", rule="a*", target_sparsity=4 / 7),
        weight("b", granularity="2:4", target_sparsity=0.99999),
    )
)


def test_how_each_weight_was_pruned_where_that_differs():
    lines = stripped(shown(MIXED)).splitlines()
    assert lines[2].split()[-3:] == ["reached", "how", "rule"]
    assert lines[3].endswith("0.5714   0.5000  row, l2  a*")
    assert lines[4].endswith("0.9999   0.5000  2:4, l1  -")
    assert "| 0.5714 | 0.5000 | cpu | row, l2 | a\\* |" in markdown_renderer.render(MIXED)
    assert "<td>2:4, l1</td>" in RENDERERS["html"].render(MIXED)
    assert "How" not in markdown_renderer.render(pruned(weights=(weight("a"), weight("b"))))


def test_masks_have_no_granularity():
    masks = Configuration(1 / 3, "masks", "unstructured", 0, (), (), 0, False)
    assert text.headline(pruned(configuration=masks)) == "model.onnx -> pruned.onnx (masks, sparsity 0.3333)"


def test_table():
    report = pruned(
        files=(FileReport("model", "model.onnx", "pruned.onnx", 1000, 1010, None, None, 900, 50),),
        verification=VerificationReport((Check("bytes", "passed", "equal"),), (OutputDrift("y", 0.25, 1e-9, 1.0),)),
        warnings=("mind the gap",),
    )
    assert stripped(shown(report)) == TABLE


def test_weights_that_a_gpu_pruned_are_named():
    report = pruned(weights=(weight("a", backend="cuda"), weight("b")))
    lines = stripped(shown(report)).splitlines()
    assert [line.split()[-1] for line in lines[2:5]] == ["backend", "cuda", "cpu"]
    assert "sparsity 0.0000 -> 0.5000; 1 on the GPU" in " ".join(lines)
    assert [row["backend"] for row in rows_of(RENDERERS["csv"].render(report))[:2]] == ["cuda", "cpu"]
    assert "| Weights pruned on the GPU | 1 |" in RENDERERS["md"].render(report)
    assert json.loads(RENDERERS["json"].render(report))["totals"]["weights_on_gpu"] == 1


def test_table_of_an_inspection():
    lines = stripped(shown(inspected(), width=120)).splitlines()
    assert lines[0] == "model.onnx"
    assert lines[3].split() == [
        "fc.weight",
        "Gemm",
        "2x4",
        "float32",
        "8",
        "4",
        "0.5000",
        "0",
        "of",
        "2",
        "1",
        "of",
        "4",
        "0.5000",
    ]
    assert "Conv (depthwise)" in lines[4]
    assert "Total: 2 weights, 44 of 46 parameters; zeros 40; sparsity 0.9091" in lines


def test_table_leaves_out_columns_where_it_is_narrow():
    big = weight(
        "features.0.block.conv.weight", shape=(512, 512, 3, 3), nonzero_before=2_359_296, nonzero_after=1_179_648
    )
    lines = shown(pruned(weights=(big,))).splitlines()
    assert lines[2].split() == ["weight", "shape", "nonzero", "target", "reached"]
    assert "2,359,296 -> 1,179,648" in lines[3]


def test_table_of_a_long_model():
    printed = shown(pruned(weights=tuple(weight(f"w{i}") for i in range(1043))))
    assert "w39 " in printed
    assert "w40 " not in printed
    assert "... and 1,003 more (use --report FILE for all)" in printed


def test_table_of_many_reasons():
    alone = tuple(LeftAloneReport(f"t{i}", (1,), "int64", 1, f"reason {i}") for i in range(20))
    assert "... and 5 more reasons (" in shown(pruned(left_alone=alone))
    assert "... and 1 more reason (" in shown(pruned(left_alone=alone[:16]))


@pytest.mark.parametrize("state", [{"dry_run": True, "output": None}, {"changed": False}])
def test_table_says_first_what_was_not_done(state):
    second = shown(pruned(**state)).splitlines()[1].strip()
    assert second.endswith("nothing was written." if "dry_run" in state else "no value differs.")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
@pytest.mark.parametrize("width", [20, 80])
@pytest.mark.parametrize("make", [nasty_report, nasty_inspection])
@pytest.mark.parametrize("name", NASTY)
def test_table_prints_nasty_names(name, make, width, encoding):
    printed = shown(make(name), width, encoding)
    assert all(line.isprintable() for line in printed.split("\n"))
    letters = text.printable(name).encode(encoding, "backslashreplace").decode(encoding)
    assert re.sub(r"\s", "", letters) in re.sub(r"\s", "", printed)


def test_only_our_own_colours_reach_a_terminal():
    printed = shown(nasty_report("\x1b[31mred [bold]x"), width=200, terminal=True)
    assert "\x1b[1;31mfailed" in printed
    assert r"\x1b[31mred [bold]x" in printed
    assert "\x1b[31m" not in printed.replace(r"\x1b[31m", "")


@pytest.mark.parametrize(
    ("file", "name"),
    [("r.json", "json"), ("r.CSV", "csv"), ("a/b.md", "md"), ("r.markdown", "md")],
)
def test_format_is_known_by_the_ending(file, name):
    assert renderer_for(file) is RENDERERS[name]


@pytest.mark.parametrize("file", ["report.txt", "report", ".json", "json", "report.json.gz", ""])
def test_other_endings_are_refused_and_the_known_ones_named(file):
    with pytest.raises(InvalidOption, match=r"use one of \.json, \.csv, \.md, .*\.htm$"):
        renderer_for(file)


@pytest.mark.parametrize("name", ["json", "csv", "md"])
def test_write_report(tmp_path, name):
    path = tmp_path / f"report.{name}"
    write_report(nasty_report("重み\udcff"), path)
    assert path.read_bytes() == RENDERERS[name].render(nasty_report("重み\udcff")).encode()
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_write_report_replaces_a_file_behind_a_link_and_keeps_its_permissions(tmp_path):
    (tmp_path / "old.json").write_text("old")
    (tmp_path / "old.json").chmod(0o640)
    (tmp_path / "link.json").symlink_to("old.json")
    write_report(pruned(), tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "old.json").read_text())["command"] == "prune"
    assert (tmp_path / "old.json").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["none/report.json", "folder.json", "nul\0.json"])
def test_refused_writes_leave_nothing(tmp_path, name):
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(WriteFailed):
        write_report(pruned(), tmp_path / name)
    assert os.listdir(tmp_path) == ["folder.json"]


def test_a_failing_rename_keeps_the_old_report(tmp_path, monkeypatch):
    (tmp_path / "report.json").write_text("old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(renderers.os, "replace", refuse)
    with pytest.raises(WriteFailed, match="disk is full"):
        write_report(pruned(), tmp_path / "report.json")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "old"


@pytest.mark.parametrize("value", [None, math.nan, -math.inf, 0.9999999, 1.0, -1.0, 0.5])
def test_cosine_is_one_only_if_it_is(value):
    expected = {
        None: "-",
        -math.inf: "-Infinity",
        0.9999999: "0.999999",
        1.0: "1.000000",
        -1.0: "-1.000000",
        0.5: "0.500000",
    }
    assert text.cosine(value) == expected.get(value, "NaN")


def test_importing_the_formats_is_light():
    code = "import sys, onnx_tools.renderers; print([m for m in ('rich', 'numpy', 'onnx') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
