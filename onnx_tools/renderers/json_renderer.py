"""Reports as JSON, in the form that `report.schema.json` describes."""

from __future__ import annotations

import json
from typing import Any

from onnx_tools.compact_report import AnyReport
from onnx_tools.report import VerificationReport, to_dict


def render(report: AnyReport | VerificationReport) -> str:
    """The report as ASCII, so that it survives any terminal; other characters are JSON's escapes."""
    return dumps(to_dict(report))


def dumps(plain: Any) -> str:
    """What JSON can hold, as `to_dict` makes it, in the same form."""
    return json.dumps(plain, indent=2, allow_nan=False) + "\n"


def report_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of reports."""
    import importlib.resources

    text = importlib.resources.files("onnx_tools").joinpath("report.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
