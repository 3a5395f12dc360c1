"""The errors of onnx_tools; all are `oxiprune_gpu.PruningError`.

::

    PruningError
    └── OnnxToolsError
        ├── InvalidModelFile     not an ONNX model, truncated, or contradicting itself
        ├── InvalidExternalData  missing, truncated, or lying outside the model's folder
        ├── InvalidTensor        a tensor whose data does not fit its shape
        ├── OutputRefused        the output exists, or would overwrite what it must not
        ├── WriteFailed          the operating system refused a write; nothing was changed
        ├── PatternMatchesNothing
        ├── InvalidMasks         no file of masks, or masks that do not fit the model
        ├── InvalidPolicy        a policy with an unknown key, a wrong value, or a file that can't be read
        ├── TiedAxes             nodes that share a weight want N:M groups along different axes
        ├── InvalidInputShape    a shape given for an input that the model does not have, or can't have
        ├── NothingSelected      no weight to prune; nothing was written
        ├── VerificationFailed   a check of the result failed; nothing was written
        ├── EvaluationFailed     a function that measures quality raised, or gave no number
        ├── RuntimeMissing       onnxruntime is needed, and not installed
        ├── AlreadyEncoded       weights are encoded already; decode them first
        └── NotEncoded           no weight is encoded; nothing to decode
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oxiprune_gpu.errors import PruningError


class OnnxToolsError(PruningError):
    """Base of the errors of onnx_tools."""


class InvalidModelFile(OnnxToolsError):
    """The file is not an ONNX model, is truncated, or contradicts itself."""


class InvalidExternalData(OnnxToolsError):
    """External data is missing, truncated, or lies outside the model's folder."""


class InvalidTensor(OnnxToolsError):
    """A tensor's data does not fit its shape."""


class OutputRefused(OnnxToolsError):
    """The output exists, or writing it would destroy something."""


class WriteFailed(OnnxToolsError):
    """The operating system refused a write. The old files stand as they were."""


class PatternMatchesNothing(OnnxToolsError):
    """An include or exclude pattern matches no weight."""


class InvalidMasks(OnnxToolsError):
    """A file of masks is damaged, or masks do not fit the model."""


class InvalidPolicy(OnnxToolsError, ValueError):
    """A policy has an unknown key or a wrong value, or its file can't be read."""


class TiedAxes(OnnxToolsError):
    """Nodes that share a weight sum over different axes, so no N:M groups serve all of them."""

    def __init__(self, name: str, consumers: Sequence[str], granularity: str) -> None:
        self.name = name
        self.consumers = tuple(consumers)
        readers = ", ".join(f"'{consumer}'" for consumer in self.consumers[:3])
        super().__init__(
            f"weight '{name}' is shared by {readers}, which sum over different axes: no {granularity} groups serve "
            "all of them; leave it out with --exclude, or give it another granularity in a policy"
        )


class InvalidInputShape(OnnxToolsError, ValueError):
    """A shape was given for an input that the model does not have, or can't have."""


class NothingSelected(OnnxToolsError):
    """No weight was selected. Nothing was written."""


class VerificationFailed(OnnxToolsError):
    """A check of the result failed."""


class EvaluationFailed(OnnxToolsError):
    """A function that measures the quality of models raised, or gave something that is no number."""


class RuntimeMissing(OnnxToolsError, ImportError):
    """onnxruntime is needed, and is not installed or can't be imported."""


class AlreadyEncoded(OnnxToolsError):
    """The model holds encoded weights already. Nothing was written."""


class NotEncoded(OnnxToolsError):
    """The model holds no encoded weight. Nothing was written."""


class ConditionMet(OnnxToolsError):
    """A condition of the caller is met. Nothing was written; `report` is the `PruneReport` of what would have been."""

    def __init__(self, message: str, report: Any) -> None:
        super().__init__(message)
        self.report = report
