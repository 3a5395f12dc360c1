"""The part of docs/results.md about pruning by data, from docs/calibration.json, and its plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmark_tables import markdown

DATA = Path("docs/calibration.json")
PLOTS = Path("docs/plots")
DRAWN = {
    "magnitude": "0.5",
    "Wanda": "C1",
    "SparseGPT": "C0",
    "magnitude + repair": "C2",
    "Wanda + repair": "C3",
    "SparseGPT + repair": "C4",
}
"""The methods of the plots, and their colours."""
WORST = 0.05
"""What magnitude must lose for a method to be held against it."""

TEXT = """Weights pruned by what the inputs of each layer are, and what is kept fitted to what the dense layer gave:
from the ONNX file and some inputs alone, by `oxiprune prune MODEL -o OUT -s S --metric wanda|sparsegpt`, `--calibration
DATA` and `--repair`. Nothing is trained. The cases that calibrate never score: 512 training images calibrate the
`digits_*`, which share no source with the test images that score; elsewhere a seeded 20 % of the data calibrates and
the rest scores. Made by `scripts/make-calibration-results`.

- **repair**: least squares and bias correction, layer by layer: each with the inputs that the pruned layers before it
  give. Without repair all layers see the inputs of the dense model. The last rows are the other order of each.
- Cells hold {measures}, and its 95 % interval: Wilson's for accuracy, a bootstrap over cases for F1.
- A tenth of the mean diagonal is added to each Hessian (`--damping`, the default). The 0.01 of SparseGPT's paper fits
  the calibrating cases closer and scores worse where they are few: magika at 70 %, magnitude + repair .859, Wanda +
  repair .939; digits_vit at 70 %, SparseGPT .905.
- Wanda alone, made for large language models, is often no better than magnitude on networks as small as these.
- The metric without data, `magnitude`, is `l1`. Weights under 2,048 elements and depthwise kernels stay dense.

{verdict}
"""


def calibration_section() -> str:
    """Text, a table and a plot for each model."""
    models = json.loads(DATA.read_text(encoding="utf-8"))["models"]
    parts = [TEXT.format(measures="accuracy (F1 of frames for basic_pitch)", verdict=verdict(models))]
    for name, model in models.items():
        found = model["curves"]
        dense = found["dense"]
        head = (
            f"### {name}\n\n{model['calibrating']:,} cases calibrate, {model['scoring']:,} score; the dense model has "
            f"{dense['value']:.3f} ({dense['low']:.3f} to {dense['high']:.3f})."
        )
        rows = [row(method, points) for method, points in found.items() if method != "dense"]
        parts.append(f"{head}\n\n![{name}: {model['measure']} against sparsity](plots/{name}.svg)\n\n{markdown(rows)}")
    return "\n\n".join(parts)


def row(method: str, points: dict[str, Any]) -> dict[str, str]:
    """One method's cells."""
    cells = {point: f"{each['value']:.3f} ({each['low']:.3f}-{each['high']:.3f})" for point, each in points.items()}
    return {"method": method, **cells}


def verdict(models: dict[str, Any]) -> str:
    """Where magnitude loses much at 70 % and at 2:4, what part of that the other methods lose."""
    rows = []
    for name, model in models.items():
        for point in ("70%", "2:4"):
            lost = {
                m: model["curves"]["dense"]["value"] - p[point]["value"]
                for m, p in model["curves"].items()
                if m != "dense"
            }
            if lost["magnitude"] >= WORST and (model["scoring"] >= 500 or model["measure"] == "F1"):
                shares = {method: f"{lost[method] / lost['magnitude']:.2f}" for method in lost if method != "magnitude"}
                rows.append({"model": name, "at": point, "magnitude loses": f"{lost['magnitude']:.3f}", **shares})
    said = "Where magnitude loses five points or more at 70 % or 2:4, the part of that loss that each method has:"
    return f"{said}\n\n{markdown(rows)}"


def draw() -> None:
    """Write the plots; equal figures give equal files."""
    import matplotlib
    from matplotlib.figure import Figure

    PLOTS.mkdir(exist_ok=True)
    for name, model in json.loads(DATA.read_text(encoding="utf-8"))["models"].items():
        figure = Figure(figsize=(7.0, 4.0), layout="constrained")
        axes = figure.subplots()
        for method, colour in DRAWN.items():
            points = [each for point, each in model["curves"][method].items() if point != "2:4"]
            places = [each["sparsity"] for each in points]
            axes.plot(places, [each["value"] for each in points], marker=".", color=colour, label=method)
            band = [each["low"] for each in points], [each["high"] for each in points]
            axes.fill_between(places, *band, color=colour, alpha=0.12, linewidth=0)
        axes.axhline(model["curves"]["dense"]["value"], color="0.3", linestyle=":", label="dense")
        axes.set_xlabel("sparsity of the pruned weights")
        axes.set_ylabel(model["measure"])
        axes.set_title(name)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower left", fontsize="small")
        with matplotlib.rc_context({"svg.hashsalt": "oxiprune", "svg.fonttype": "none"}):
            figure.savefig(PLOTS / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    draw()
