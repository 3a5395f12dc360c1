"""Qualities by their names, and the data that they are measured on."""

from __future__ import annotations

import pathlib
import shutil
import tempfile
import weakref

from onnx_tools.calibration.data import Data, Feeds, read_feeds
from onnx_tools.quality.builtin import Drift, Likeness, Top1, cosine, minus_kl
from onnx_tools.quality.custom import custom
from onnx_tools.quality.labels import label_spec
from onnx_tools.quality.measured import Quality
from onnx_tools.quality.running import Loaded, Reference
from onnx_tools.temporaries import writing
from oxiprune_gpu.errors import InvalidOption

NAMES = ("top1", "drift", "cosine", "kl")
_KINDS = "top1, top1:LABELS, drift, cosine, kl (each also :OUTPUT), or module:function"


def read_quality(text: str, data: Data | Feeds | None, reference: pathlib.Path) -> Quality:
    """The quality that a text names. Higher is always better.

    Args:
        text: "top1" or "top1:LABELS", the share of right labels, of the array `labels` or `y` of the data or of the one
            named; "drift", minus the relative L2 distance of the worst output from that of `reference`; "cosine", and
            "kl" (minus the divergence in nats; the output holds logits), means over cases of the first output;
            "drift:OUTPUT" and so on, of the output of this name; or "module:function", which gets the path of a model
            and gives a number, or an array with one a case.
        data: as for calibration, or what `evaluation_data` or `split` gave; None for a function, which has its own.
        reference: the model before pruning.

    Raises:
        InvalidOption: an unknown name, no such function, or data that does not fit the model or has no labels.
        InvalidModelFile: onnxruntime does not load the reference. RuntimeMissing: onnxruntime is not installed.
    """
    name, _, more = text.partition(":")
    if name not in NAMES:
        if not name or not more:
            raise InvalidOption(f"quality '{text}' is none of {_KINDS}")
        return custom(text)
    if data is None:
        raise InvalidOption(f"quality '{text}' is measured on data: give some")
    loaded = Loaded(reference)
    feeds = data if isinstance(data, Feeds) else evaluation_data(text, data, reference)
    if name == "top1":
        return Top1(text, feeds, _labels_in(feeds, loaded))
    output = _output(more, loaded, text) if more else None
    if name == "drift":
        return Drift(text, Reference(loaded, feeds), output)
    of, along_last = (cosine, False) if name == "cosine" else (minus_kl, True)
    return Likeness(text, Reference(loaded, feeds), output or 0, of, along_last)


def evaluation_data(text: str, data: Data, model: pathlib.Path) -> Feeds:
    """Read data for a model, with labels where the quality `text` wants them; to be split, or measured on.

    What code gives lies in temporary files as long as the feeds are there. Raises as `read_quality`.
    """
    name, _, labels = text.partition(":")
    loaded = Loaded(model)
    inputs = [*loaded.inputs]
    if name == "top1":
        inputs.append(label_spec(labels, data, inputs))
    with writing(pathlib.Path(tempfile.gettempdir())):
        folder = tempfile.mkdtemp(prefix="oxiprune-")
    try:
        feeds = read_feeds(data, inputs, loaded.runs, pathlib.Path(folder))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(feeds, shutil.rmtree, folder, ignore_errors=True)
    return feeds


def _labels_in(feeds: Feeds, model: Loaded) -> str:
    """The array of feeds that is no input of the model."""
    names = {each.name for each in model.inputs}
    found = next((each.name for each in feeds.inputs if each.name not in names), None)
    if found is None:
        raise InvalidOption(f"{feeds.source}: was read without labels, which top1 wants")
    return found


def _output(name: str, model: Loaded, text: str) -> int:
    if name not in model.outputs:
        raise InvalidOption(f"quality '{text}': the model has no output '{name}'; there are {', '.join(model.outputs)}")
    return model.outputs.index(name)
