"""heliostat init: writes a project that runs as it is, the schemas of the configs for editors, or the completion of a shell."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from heliostat.wording import agreeing

PROJECT = Path(__file__).parents[1] / "project"
PLACES = {"ci.yaml": ".github/workflows/test.yaml", "gitignore": ".gitignore"}
"""Where a file of `PROJECT` goes, if not by its own name."""
PROFILE, SCHEMAS = "gpu", "schemas"
PLAIN: Any = {"highlight": False, "markup": False, "soft_wrap": True}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="the folder to write, whose name is also that of the run (default: this folder)"
    )
    parser.add_argument(
        "--schema",
        nargs="?",
        const=SCHEMAS,
        metavar="DIR",
        help="write only the JSON schemas of all configs, with which editors complete and check them (default: schemas)",
    )
    parser.add_argument(
        "--completion",
        choices=("bash", "zsh", "fish"),
        help='print what makes a shell complete commands, keys and names: eval "$(heliostat init --completion bash)"',
    )
    parser.epilog = "example: heliostat init demo && cd demo && heliostat train"


def run(args: argparse.Namespace) -> int:
    from heliostat.errors import UserError

    given = {"NAME": args.name, "--schema": args.schema, "--completion": args.completion}
    if len(chosen := [option for option, value in given.items() if value is not None]) > 1:
        raise UserError(f"{' and '.join(chosen)} write different things", "give one of them")
    if args.completion:
        from argcomplete.shell_integration import shellcode

        print(shellcode(["heliostat"], shell=args.completion))
        return 0
    return _write_project(Path(args.name or ".")) if args.schema is None else _write_schemas(Path(args.schema))


def _write_schemas(folder: Path) -> int:
    from heliostat.console import out
    from heliostat.errors import UserError

    files = _schemas(folder)
    # Those of another version are generated, too, and replaced.
    if others := [str(path) for path in files if path.exists() and '"$schema"' not in path.read_text(errors="replace")]:
        raise UserError(f"{', '.join(others)} is no schema; nothing was written", "give another folder: --schema DIR")
    _write(files)
    line = f"# yaml-language-server: $schema={folder / 'train.json'}"
    out.print(f"wrote {', '.join(map(str, files))}; the first line of a config names its schema:\n  {line}", **PLAIN)
    return 0


def _write_project(folder: Path) -> int:
    from heliostat.commands.profile.file import new_profile
    from heliostat.config import read_mapping, validate
    from heliostat.console import out
    from heliostat.errors import UserError
    from heliostat.workloads.config import TrainConfig

    name = folder.resolve().name
    validate({**read_mapping(PROJECT / "train.yaml"), "name": name}, TrainConfig)
    templates = [path for path in sorted(PROJECT.iterdir()) if path.is_file()]
    files = {folder / PLACES.get(path.name, path.name): path.read_text().replace("NAME", name) for path in templates}
    files[folder / f"{PROFILE}.yaml"] = new_profile(PROFILE, f"{SCHEMAS}/profile.json")
    files |= _schemas(folder / SCHEMAS)
    if there := [str(path) for path in files if path.exists()]:
        raise UserError(
            f"{', '.join(there)} {agreeing(len(there), 'exist')} already; nothing was written", "give the NAME of a new folder"
        )
    _write(files)
    enter = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    out.print(f"wrote {folder}/ ({len(files)} files, see README.md); it trains as it is:\n  {enter}heliostat train", **PLAIN)
    return 0


def _write(files: dict[Path, str]) -> None:
    """Write all files, or none that was not there before.

    Raises:
        UserError: one cannot be written.
    """
    from heliostat.errors import UserError

    new = [path for path in files if not path.exists()]
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    except OSError as error:
        for path in new:
            if path.is_file():
                path.unlink()
        raise UserError(f"{error.filename} cannot be written: {error.strerror}", "choose another folder") from None


def _schemas(folder: Path) -> dict[Path, str]:
    """The schemas by their paths in a folder."""
    from heliostat import completion

    return {folder / path.name: path.read_text() for path in sorted(completion.SCHEMAS.glob("*.json"))}
