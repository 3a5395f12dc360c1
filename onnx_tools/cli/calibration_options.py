"""Options about methods that look at the inputs of weights: those of `prune`, `search` and `sensitivity`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnx_tools.cli.channel_options import read_size
from onnx_tools.naming import expand
from onnx_tools.usage import WrongUsage

if TYPE_CHECKING:  # at run time it would bring numpy, which the command starts without
    from onnx_tools.calibration.data import Data
    from onnx_tools.calibration.methods import DataMethod

BY_INPUTS = "By what the inputs are"

DATA_METRICS = ("wanda", "sparsegpt")
"""Those of `onnx_tools.calibration.methods.METHODS`; a test compares."""
ORDERS = ("layers", "once")
"""Those of `onnx_tools.calibration.methods.ORDERS`; a test compares."""
REPAIRS = ("least-squares", "bias", "batch-norm")
"""Those of `onnx_tools.calibration.methods.REPAIRS`; a test compares."""

_DATA = (
    "--calibration DATA: an .npz with an array for each input, a folder with an .npy for each, module:function that "
    "gives dicts of arrays, or random:SEED:COUNT"
)
_NEEDS_DATA = ("order", "damping", "calibration_cache", "calibration_memory", "provider")
_WITHOUT_DATA = "leave it out, or take a metric without data, which --repair goes with"


def _order(text: str | None) -> str | None:
    if text is not None and text not in ORDERS:
        raise typer.BadParameter(f"unknown order '{text}': use {' or '.join(ORDERS)}")
    return text


def _repairs(text: str | None) -> str | None:
    unknown = [each for each in (text or "").split(",") if text is not None and each not in REPAIRS]
    if unknown:
        raise typer.BadParameter(
            f"unknown repair '{unknown[0]}': use {', '.join(REPAIRS)}, several as in bias,batch-norm"
        )
    return text


def _damping(number: float | None) -> float | None:
    if number is not None and not 0 < number < math.inf:
        raise typer.BadParameter(f"{number:g} must be a number above 0")
    return number


def _data_option(default: str | bool) -> Any:
    return typer.Option(
        "--calibration",
        metavar="DATA",
        show_default=default,
        help="Real inputs to run the model on, not those that it is scored on later: an .npz with an array for each "
        "input (other arrays, like labels, are left out), a folder with an .npy for each, or module:function that "
        "gives dicts of arrays; random:SEED:COUNT, if asked for, makes numbers up, and "
        "part:SEED:DATA takes the fifth of DATA that a search did. {stem} and {parent} stand for the "
        "model's name and folder.",
        rich_help_panel=BY_INPUTS,
    )


Calibration = Annotated[str | None, _data_option(False)]
SearchCalibration = Annotated[str | None, _data_option("a fifth of --data, which is not measured on then")]
Repair = Annotated[
    bool,
    typer.Option(
        "--repair",
        help="Fit what is kept of each weight by least squares, so that its layer gives on this data what it gave "
        "before, and move its bias. Goes with every metric, unit and mask, whole channels too.",
        rich_help_panel=BY_INPUTS,
    ),
]
RepairBy = Annotated[
    str | None,
    typer.Option(
        "--repair-by",
        metavar="WHAT",
        callback=_repairs,
        show_default="least-squares,bias",
        help="What --repair does: least-squares (what is kept of a weight), bias (the mean of each output stays), "
        "batch-norm (its statistics move with what it reads).",
        rich_help_panel=BY_INPUTS,
    ),
]


def _order_option(default: str) -> Any:
    return typer.Option(
        "--order",
        metavar="WHEN",
        callback=_order,
        show_default=default,
        help="Which inputs a weight is pruned for: layers (those that the layers before it give once they are pruned; "
        "the model runs over the data for each layer), or once (those of the dense model, all in one go).",
        rich_help_panel=BY_INPUTS,
    )


Order = Annotated[str | None, _order_option("layers with --repair, else once")]
SearchOrder = Annotated[str | None, _order_option("once, so that all models share one look at the data")]
Damping = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        callback=_damping,
        show_default="0.1",
        help="Of sparsegpt and --repair: higher trusts the data less. In parts of the mean square of the inputs.",
        rich_help_panel=BY_INPUTS,
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--calibration-cache",
        metavar="FOLDER",
        file_okay=False,
        help="With --order once: keep what was added up over the data, for the next run with this model and data, or "
        "to go on after an interruption.",
        rich_help_panel=BY_INPUTS,
    ),
]
Memory = Annotated[
    int | None,
    typer.Option(
        "--calibration-memory",
        metavar="SIZE",
        parser=read_size,
        show_default="1GiB",
        help="What may be taken for sums and values, beside onnxruntime; what does not fit takes more runs.",
        rich_help_panel=BY_INPUTS,
    ),
]
Provider = Annotated[
    list[str] | None,
    typer.Option(
        "--provider",
        metavar="NAME",
        show_default="CPUExecutionProvider",
        help="What runs the model in onnxruntime, such as CUDAExecutionProvider. Repeatable, the first that can.",
        rich_help_panel=BY_INPUTS,
    ),
]


def check_calibration(given: Mapping[str, Any]) -> None:
    """Raise `WrongUsage` where the options do not go together, or data is missing. `given`: as for `check_looking`."""
    check_looking(given, at_once=not given["repair"])
    if looks(given) and given["calibration"] is None:
        raise WrongUsage(f"{_asked(given)} looks at data: give {_DATA}")


def looks(given: Mapping[str, Any]) -> bool:
    """Whether a method looks at data."""
    return bool(_asked(given))


def _asked(given: Mapping[str, Any]) -> str:
    """The option that asks for a look at data, if one does."""
    return f"--metric {given['metric']}" if given["metric"] in DATA_METRICS else "--repair" if given["repair"] else ""


def check_looking(given: Mapping[str, Any], *, at_once: bool) -> None:
    """Raise `WrongUsage` where the options do not go together; data may be missing.

    `given`: all options by the names of their arguments. `at_once`: whether the order is "once" where none is given.
    """
    asked = _asked(given)
    if given["repair_by"] is not None and not given["repair"]:
        raise WrongUsage("--repair-by goes with --repair")
    if given["calibration"] is not None and not asked:
        raise WrongUsage("nothing looks at the data of --calibration: give --metric wanda or sparsegpt, or --repair")
    needing = next((name for name in _NEEDS_DATA if given[name] not in (None, [])), None)
    if needing is not None and not asked:
        raise WrongUsage(f"--{needing.replace('_', '-')} goes with --calibration")
    once = at_once if given["order"] is None else given["order"] == "once"
    if given["calibration_cache"] is not None and not once:
        raise WrongUsage("--calibration-cache goes with --order once: in layers each layer sees others pruned")
    if given["metric"] in DATA_METRICS:
        _check_choice(given)


def _check_choice(given: Mapping[str, Any]) -> None:
    """What data can choose: elements and N:M groups."""
    granularity = str(given["granularity"] or "unstructured")
    if granularity != "unstructured" and (":" not in granularity or granularity.startswith("block")):
        raise WrongUsage(f"--granularity {granularity} does not go with --metric {given['metric']}: {_WITHOUT_DATA}")
    if given["damping"] is not None and given["metric"] == "wanda" and not given["repair"]:
        raise WrongUsage("--damping goes with --metric sparsegpt and --repair")


def data_files(data: str | None, models: Sequence[Path]) -> list[Path]:
    """The files that --calibration names."""
    return [] if data is None else [file for model in models if (file := expand(data, model)).is_file()]


def read_method(given: Mapping[str, Any]) -> DataMethod | None:
    """What looks at the data of --calibration, for options that were checked; None where nothing does."""
    return make_method(given, given["calibration"]) if looks(given) else None


def method_maker(given: Mapping[str, Any]) -> Callable[[Data], DataMethod] | None:
    """What gives, for data, what looks at it, in the order "once" if none is asked for; None where nothing looks."""
    ordered = {**given, "order": given["order"] or "once"}
    return partial(make_method, ordered) if looks(given) else None


def make_method(given: Mapping[str, Any], data: Data) -> DataMethod:
    """What looks at `data`, for options that were checked."""
    from onnx_tools.calibration.methods import DataMethod

    words = {"order": "order", "damping": "damping", "calibration_cache": "cache", "calibration_memory": "memory"}
    optional = {word: given[name] for name, word in words.items() if given[name] is not None}
    if given["provider"]:
        optional["providers"] = tuple(given["provider"])
    if given["backend"] == "cuda":
        optional["backend"] = "cuda"
    choice = given["metric"] if given["metric"] in DATA_METRICS else None
    repairs = given["repair"] if given["repair_by"] is None else tuple(given["repair_by"].split(","))
    return DataMethod(data, choice, repairs, **optional)
