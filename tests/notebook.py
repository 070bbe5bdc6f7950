"""Cells in a real Jupyter kernel, and what they show."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def notebook(code: str, place: Path, env: Mapping[str, str]) -> list[list[Any]]:
    """Run cells, which ``#%%`` separates; the outputs of each."""
    import nbformat
    from nbclient import NotebookClient

    cells = [nbformat.v4.new_code_cell(cell) for cell in code.split("#%%")]  # type: ignore[no-untyped-call]
    book = nbformat.v4.new_notebook(cells=cells)  # type: ignore[no-untyped-call]
    resources = {"metadata": {"path": str(place)}}
    NotebookClient(book, timeout=900, kernel_name="python3", allow_errors=True, resources=resources).execute(env=dict(env))
    return [cell.outputs for cell in book.cells]


def texts(outputs: list[Any]) -> str:
    """All that a cell shows as text."""
    parts = [output.get("text") or "\n".join(output.get("traceback", [])) for output in outputs]
    return "\n".join([*parts, *(output.get("data", {}).get("text/plain", "") for output in outputs)])
