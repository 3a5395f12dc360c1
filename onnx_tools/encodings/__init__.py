"""Storing pruned weights without their zeros, and back.

`encode_file` and `decode_file` are the two verbs. `layouts/` has the ways to store places, `found.py` recognises and
rebuilds what was encoded, `runtime.py` asks onnxruntime.
"""
