"""The checks behind `verify_files`: bytes compared, outputs compared in onnxruntime. `verify.py` puts them together."""
