"""Exports a run: writes the files, loads them again by themselves, compares, and only then lets the folder appear."""

import copy
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heliostat.errors import UserError
from heliostat.folder import Folder, absolute, default_base, expanded
from heliostat.wording import counted
from heliostat.workloads.export import SUMS, compare, huggingface
from heliostat.workloads.export.card import card, config_of
from heliostat.workloads.export.formats import FORMATS, Exportable, check
from heliostat.workloads.export.graph import Predictions, used
from heliostat.workloads.export.samples import MOST_BYTES, Samples, samples_of
from heliostat.workloads.export.signature import of_data, outputs_and_inputs
from heliostat.workloads.inference import Trained, load_run
from heliostat.workloads.prediction.model import check_outputs
from heliostat.workloads.run.record import RunRecord

SIGNATURE, CARD = "signature.json", "README.md"
LOADER = Path(__file__).with_name("loader")
Document = dict[str, Any]


def export(run: Folder | str | Path | Trained, to: str, output: str | None = None) -> Document:
    """Exports the best checkpoint of a run.

    Args:
        run: its folder, or its path or URI.
        to: ``safetensors``, ``torch``, ``onnx``, ``hf`` or ``lightgbm``.
        output: the folder to write, a path or a URI; by default the name of the run and the format. An earlier export of the
            same run to the same format is replaced.

    Returns:
        ``output``, ``format``, ``step``, ``files`` (bytes by name), ``compared`` and ``difference``, the largest one of an
        output as a share of its largest value.

    Raises:
        UserError: see `load_run`; the folder exists with something else; the model has no such format, or computes other
            outputs when it is loaded by itself. Nothing is written then.
    """
    if to not in FORMATS:
        raise UserError(f"--to is {to}, which is no format", f"give one of {', '.join(FORMATS)}")
    trained = run if isinstance(run, Trained) else load_run(run)
    place = place_of(trained.record, to, output)
    check_free(place, trained, to)
    source, samples = prepared(trained)
    check(to, source)
    parent = "" if "://" in place else os.path.dirname(place)
    if parent:
        os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=parent or None) as scratch:
        folder = Path(scratch, "model")
        folder.mkdir()
        document = _written(trained, to, source, samples, folder)
        _move(folder, place)
    return {"output": place, **document}


def place_of(record: RunRecord, to: str, output: str | None) -> str:
    """The path or URI of the folder of an export, see `export`."""
    return absolute(expanded(output or f"{record.config.name}-{to}", key="--output"), default_base())


def check_free(place: str, run: Trained, to: str) -> None:
    """Raises a UserError if a folder has something else than an earlier export of the same run to the same format."""
    folder = Folder.at(place)
    if not folder.exists():
        return
    names = folder.names()
    try:
        found = json.loads(folder.read(SIGNATURE)) if SIGNATURE in names else {}
        earlier = found["format"], found["run"]["name"], found["run"]["config_hash"]
    except (ValueError, TypeError, KeyError):  # what is there is none of ours
        earlier = None
    if names and earlier != (to, run.record.config.name, run.record.hash):
        raise UserError(f"--output {place} exists with something else", "give another folder, or delete it")


def prepared(run: Trained) -> tuple[Exportable, Samples]:
    """The model on the CPU with an example, and the samples that it is compared on."""
    model = copy.deepcopy(run.model).cpu().eval()
    samples = samples_of(run)
    names = used(run.task, model, {name: values[:1] for name, values in samples.batch.items()})
    batch = {name: samples.batch[name] for name in names}
    # A number of samples that is not by chance the size of another axis.
    count = next(size for size in range(2, 100) if all(size not in values.shape[1:] for values in batch.values()))
    example = {name: values[:1].expand(count, *values.shape[1:]).clone() for name, values in batch.items()}
    size = sum(values.nbytes for values in outputs_of(Predictions(run.task, model), example).values()) // count
    return Exportable(run.task, model, example), Samples(batch, samples.truth, samples.kind).thinned(MOST_BYTES // max(size, 1))


@torch.no_grad()
def outputs_of(predictions: Predictions, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The outputs of the run's own model, on the CPU."""
    found = [predictions(part) for part in compare.parts(batch)]
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


def _written(run: Trained, to: str, source: Exportable, samples: Samples, folder: Path) -> Document:
    """Writes and compares everything in a folder; returns what to report."""
    predictions = Predictions(source.task, source.model)
    wanted = outputs_of(predictions, samples.batch)
    check_outputs(source.task, wanted)
    taken = outputs_and_inputs(source.task, source.batch, outputs_of(predictions, source.batch))
    # A copy, because what cannot be in a graph is taken out of it.
    added = FORMATS[to].write(Exportable(source.task, copy.deepcopy(source.model), source.batch), folder)
    signature = {"format": to, "version": 1, "run": config_of(run), **taken, **of_data(run.index), **added}
    (folder / SIGNATURE).write_text(json.dumps(signature, indent=1, ensure_ascii=False) + "\n")
    if to != "hf":
        (folder / "config.json").write_text(json.dumps(config_of(run), indent=1) + "\n")
        shutil.copytree(LOADER, folder / "loader", ignore=shutil.ignore_patterns("__pycache__"))
    difference, sentence = COMPARED.get(to, _compare_outputs)(source, samples, wanted, folder)
    (folder / CARD).write_text(card(run, to, signature, sentence))
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}" for path in files]
    (folder / SUMS).write_text("\n".join(sums) + "\n")
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
    return {"format": to, "step": run.step, "files": sizes, "compared": sentence, "difference": difference}


Compared = tuple[float, str]


def _compare_outputs(source: Exportable, samples: Samples, wanted: dict[str, Tensor], folder: Path) -> Compared:
    found = compare.run_alone(compare.RUN, folder, samples.batch)
    difference = compare.largest_difference(wanted, found)
    for name in source.task.any_length:  # another length, too
        shorter = {**samples.batch, name: samples.batch[name][:, : max(2, samples.batch[name].shape[1] // 2)]}
        other = outputs_of(Predictions(source.task, source.model), shorter)
        difference = max(difference, compare.largest_difference(other, compare.run_alone(compare.RUN, folder, shorter)))
    sentence = (
        f"Loaded by itself in a new process and compared with the run on {samples.note}, in batches of "
        f"{', '.join(map(str, compare.SIZES))}: the largest difference is {difference:.1e} of the largest output."
    )
    return difference, f"{sentence}{_same_metric(samples.truth, wanted, found)}"


def _same_metric(truth: dict[str, Tensor], wanted: dict[str, Tensor], found: compare.Arrays) -> str:
    """The accuracy or the RMSE of both on these samples."""
    both = (wanted, {name: torch.from_numpy(values) for name, values in found.items()})
    if "label" in truth and "class" in wanted:
        run, exported = (f"{float((each['class'] == truth['label']).double().mean()):.4f}" for each in both)
        return f" Accuracy there: {exported}; of the run {run}."
    if "target" in truth and "prediction" in wanted and wanted["prediction"].shape == truth["target"].shape:
        run, exported = (f"{float((each['prediction'] - truth['target']).square().mean().sqrt()):.6g}" for each in both)
        return f" RMSE there: {exported}; of the run {run}."
    return ""


def _compare_weights(source: Exportable, samples: Samples, wanted: dict[str, Tensor], folder: Path) -> Compared:
    """Compares the tensors in a new process, and in this one a new model that gets them."""
    from safetensors.torch import load_file

    state = {name: value.float() for name, value in source.model.state_dict().items()}
    difference = compare.largest_difference(state, compare.run_alone(compare.WEIGHTS, folder, {}))
    model = source.task.model()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    other = outputs_of(Predictions(source.task, model.eval()), samples.batch)
    difference = max(difference, compare.largest_difference(wanted, {name: value.numpy() for name, value in other.items()}))
    return (
        difference,
        f"Loaded again into a new model and compared with the run on {samples.note}: no difference above {difference:.1e}.",
    )


def _compare_transformers(source: Exportable, samples: Samples, wanted: dict[str, Tensor], folder: Path) -> Compared:
    few = Exportable(source.task, source.model, {name: values[:8] for name, values in samples.batch.items()})
    given, output = huggingface.recorded(few)
    found = compare.run_alone(compare.HF, folder, given)
    difference = compare.largest_difference({"output": output.float()}, found)
    return difference, (
        f"Loaded by transformers in a new process and compared with the run on {counted(len(output), 'sample')}, one at a "
        "time: "
        f"the largest difference is {difference:.1e} of the largest output."
    )


COMPARED: dict[str, Callable[[Exportable, Samples, dict[str, Tensor], Path], Compared]] = {
    "safetensors": _compare_weights,
    "hf": _compare_transformers,
}
"""How the formats are compared that the loader does not run."""


def _move(folder: Path, place: str) -> None:
    """Moves the finished folder to its place; on an object store the checksums come last."""
    shutil.rmtree(folder / "loader" / "__pycache__", ignore_errors=True)
    if "://" in place:
        sums = (folder / SUMS).read_bytes()
        (folder / SUMS).unlink()
        Folder.at(place).copy_from(Folder.at(folder))
        Folder.at(place).write(SUMS, sums)
        return
    before = folder.with_name("before")
    if os.path.exists(place):
        os.rename(place, before)
    os.rename(folder, place)
