"""`oxiprune decode`."""

from __future__ import annotations

from onnx_tools.cli.application import EXIT_CODES, app, run_command
from onnx_tools.cli.options import Force, OneJson, OneModel, OneOutput, Quiet
from onnx_tools.usage import SectionedCommand


@app.command(cls=SectionedCommand, epilog=EXIT_CODES)
def decode(
    model: OneModel, output: OneOutput, force: Force = False, quiet: Quiet = False, as_json: OneJson = False
) -> None:
    """Turn an encoded model back into the one that it was made from.

    Byte for byte, but for the names of data files; each weight is held against the checksum of its values.

    \b
    Examples:
      oxiprune decode packed.onnx -o pruned.onnx
    """  # noqa: D301

    def run() -> int:
        from onnx_tools import encoding_commands as commands

        return commands.decode_model(model, output, commands.Shown(quiet, as_json), force=force)

    run_command(run)
