"""`python -m onnx_tools` is the `oxiprune` command."""

from onnx_tools.cli import main

main()
