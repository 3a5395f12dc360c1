"""Reports as one HTML file that needs nothing else: no network, no font, no script but its own.

The only module that imports Jinja2. Every text goes through its escaping; scripts other than the one in the page are
refused by its content security policy (W3C, CSP Level 3), so a name that got through would still be no program.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from typing import Any

from onnx_tools.compact_report import AnyReport
from onnx_tools.renderers.html_page import page_of


def render(report: AnyReport) -> str:
    """The report as HTML, UTF-8."""
    environment = _environment()
    script = environment.get_template("script.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = environment.get_template("page.html.jinja")
    html: str = template.render(page=page_of(report), script=script, script_hash=f"'sha256-{digest}'")
    return html


@functools.cache
def _environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("onnx_tools.renderers"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
