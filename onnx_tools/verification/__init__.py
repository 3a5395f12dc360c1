"""The checks behind `verify_files`: bytes compared, outputs compared in onnxruntime. `verify.py` puts them together."""

CHECKS = ("bytes", "checker", "runtime", "drift")
"""Their names, in the order in which they are made."""
