"""The corpus of real models that OXIPRUNE_CORPUS names, each pruned to half its channels by each tool.

python benchmarks/compaction_corpus.py TABLE.json

A cell says how much of the stored elements is left, or what is wrong: compaction_oracle.py judges.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from compaction_cases import outcome, tools
from compaction_oracle import Given

ZEROS = np.zeros((2, 1, 128), np.float32)
SOUND = np.random.default_rng(0).standard_normal((1, 576)).astype(np.float32) / 10
GIVEN: dict[str, Given] = {"silero_vad": {"input": SOUND, "state": ZEROS, "sr": np.array(16000)}}
"""Inputs of models that take certain sizes and values only."""


def main() -> None:
    """Write the table; without the corpus an empty one."""
    models = sorted(Path(os.environ.get("OXIPRUNE_CORPUS", "nowhere"), "models").glob("*/model.onnx"))
    rows = []
    for model in models:
        with tempfile.TemporaryDirectory(prefix="oxiprune-corpus-") as folder:
            for file in model.parent.glob("model.onnx*"):
                shutil.copyfile(file, Path(folder, file.name))
            given = GIVEN.get(model.parent.name)
            made = {name: outcome(command, Path(folder, "model.onnx"), given) for name, command in tools().items()}
        rows.append({"model": model.parent.name, **made})
    Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
