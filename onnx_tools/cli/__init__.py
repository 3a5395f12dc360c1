"""The `oxiprune` command: arguments, usage and exit codes, a file a command. What is done is in `onnx_tools.commands`.

Exit codes: 0 done; 1 no weight was selected, or a check failed; 2 usage or bad input, or something can't be written;
130 interrupted. Nothing here imports numpy or onnx, so `--help` and errors of usage are quick.

The order of the imports is that of the commands in `oxiprune --help`.
"""

# isort: off
from onnx_tools.cli import prune, search, sensitivity, compact, inspect, encode, decode, verify, compare, doctor
from onnx_tools.cli.application import app, main

__all__ = [
    "app",
    "compact",
    "compare",
    "decode",
    "doctor",
    "encode",
    "inspect",
    "main",
    "prune",
    "search",
    "sensitivity",
    "verify",
]
