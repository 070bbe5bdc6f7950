"""ONNX, by torch's exporter; onnx, onnxscript and onnxruntime are an extra."""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.export import ExportedProgram

from heliostat.errors import UserError
from heliostat.wording import agreeing
from heliostat.workloads.export.graph import cannot, quiet

NEEDED = ("onnx", "onnxscript", "onnxruntime")
FIX = "compute it with operators that ONNX has, or --to torch"


def check_installed() -> None:
    """Raises a UserError if a package of the extra is missing."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UserError(
            f"--to onnx needs {', '.join(missing)}, which {agreeing(len(missing), 'are')} not installed",
            "pip install 'heliostat[onnx]'",
        )


def write(program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str], path: Path) -> None:
    """Writes a program as an ONNX model.

    Args:
        program: a dictionary of tensors -> a dictionary of tensors.
        inputs: the names of both, in order.
        outputs: see ``inputs``.
        path: the file.

    Raises:
        UserError: an operator has no equivalent; with the operator and its module.
    """
    try:
        with quiet():
            found = torch.onnx.export(program, dynamo=True, verbose=False, input_names=inputs, output_names=outputs)
            assert found is not None
            found.save(path)
    except torch.onnx.OnnxExporterError as error:
        raise _refused(program, error) from None


def _refused(program: ExportedProgram, error: BaseException) -> UserError:
    text = str(error)
    operator = re.search(r"target=torch\.ops\.([\w.]+)", text)
    node = re.search(r"translating node %(\w+)", text)
    reason = re.search(r"(?:DispatchError|Error)'>: (.*)", text)
    why = reason[1] if reason else text.partition("\n")[0]
    name = operator[1].removesuffix(".default") if operator else "unknown"
    return cannot(name, _module_of(program, node[1] if node else ""), why, fix=FIX)


def _module_of(program: ExportedProgram, name: str) -> str:
    """The module that a node of the decomposed graph comes from."""
    for node in program.run_decompositions().graph.nodes:
        if node.name == name and (stack := node.meta.get("nn_module_stack")):
            path, kind = list(stack.values())[-1]
            return f"{path.removeprefix('model.')} ({getattr(kind, '__name__', str(kind).rpartition('.')[2])})"
    return "unknown"
