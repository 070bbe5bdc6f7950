"""The files of a table of which some are for validation or the test alone."""

from dataclasses import replace

from heliostat.datasets.sources.files import SHOWN, File, table_files
from heliostat.datasets.splits import Split
from heliostat.errors import UserError, combined


def split_files(place: str, split: Split) -> list[File]:
    """The files of a table; those of ``place`` that are for validation or the test are not for training, too.

    Raises:
        UserError: a place has no files, one is for both validation and the test, or none is left for training.
    """
    train, errors, parts = list[File](), list[UserError](), dict[str, File]()
    places = {"dataset.options.path": (None, place)} | {
        f"dataset.options.split.{part}": (part, path) for part, path in _places(split).items()
    }
    for key, (part, path) in places.items():
        try:
            found = table_files(path, key)
        except UserError as error:
            errors.append(error)
            continue
        if part is None:
            train = found
            continue
        if both := [file.name for file in found if file.path in parts]:
            errors.append(
                UserError(f"{key} {path} has files that are for validation, too: {', '.join(both[:SHOWN])}", "give other files")
            )
        parts |= {file.path: replace(file, part=part) for file in found}
    rest = [file for file in train if file.path not in parts]
    if train and not rest:
        errors.append(UserError(f"dataset.options.path {place} has no file for training alone", "give other files"))
    if errors:
        raise combined(errors, "dataset.options")
    return [*rest, *parts.values()]


def _places(split: Split) -> dict[str, str]:
    return {part: path for part, path in (("validation", split.validation), ("test", split.test)) if path}
