"""Prunes an ONNX model before it is deployed, checks the new file, and writes the report that goes with it.

It shows: `prune_file`, `verify_files` on data of your own, `write_report`, and what an exit code could be made of.
With no argument it works on the bundled demo model and writes to a temporary folder:

    python examples/onnx_before_deployment.py [MODEL.onnx OUTPUT_FOLDER]

Drift is told where onnxruntime is installed (pip install 'oxiprune-gpu[run]').
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import mkdtemp

from onnx_tools import Extras, Selection, prune_file, verify_files, write_report
from oxiprune_gpu import PruningConfig

DEMO = Path(__file__).parents[1] / "demo"


def main(model: Path = DEMO / "digits_cnn.onnx", folder: Path | None = None, data: Path | None = None) -> int:
    folder = Path(mkdtemp(prefix="pruned-")) if folder is None else folder
    output = folder / f"{model.stem}.pruned.onnx"
    report = prune_file(
        model,
        output,
        config=PruningConfig(0.5, "l1", "unstructured"),
        selection=Selection(exclude=()),  # names of weights that must stay, as on the command line: "head.*"
        extras=Extras(statistics=True, hashes=True, compressed=True),
        force=True,
    )
    totals = report.totals
    print(f"{output}: sparsity {totals.sparsity_before:.4f} -> {totals.sparsity_after:.4f}")
    print(f"bytes with zstd-3: {totals.compressed_before:,} -> {totals.compressed_after:,}")
    for weight in report.weights:
        print(f"  {weight.name} ({weight.backend}): {weight.nonzero_after:,} of {weight.parameters:,} left")

    verification = verify_files(model, output, data=data)
    for check in verification.checks:
        print(f"{check.name}: {check.outcome}. {check.detail}")
    for drift in verification.drifts:
        print(f"output {drift.output} moved by {drift.relative_l2} (relative L2)")
    for ending in ("json", "md"):
        write_report(report, output.with_suffix(f".{ending}"))
    return 1 if verification.failed else 0


if __name__ == "__main__":
    given = [Path(word) for word in sys.argv[1:3]]
    sys.exit(main(*given) if given else main(data=DEMO / "digits_eval.npz"))
