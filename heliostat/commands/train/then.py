"""What heliostat train does for the registry: ``then`` after it, and before it ``--if-new`` and ``start_from: NAME@3``."""

import argparse
from typing import TYPE_CHECKING, Any

from heliostat.commands.model.registry import registry_at, say

if TYPE_CHECKING:
    from heliostat.workloads.registry.then import Followed


def add_if_new(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument(
        "--if-new", action="store_true",
        help="train only on data that no version of then's model was trained on; the run is NAME-FINGERPRINT",
    )  # fmt: skip


def add_if_drift(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument(
        "--if-drift", action="store_true",
        help="as --if-new, but only if heliostat model drift finds that the service of the model has drifted",
    )  # fmt: skip


def check_if_new(config: Any, args: argparse.Namespace) -> None:
    """Raise a `UserError` if the options of this command, or the config, exclude each other."""
    from heliostat.errors import UserError, combined

    problems = []
    if args.if_drift and args.on:
        fix = "train here, or let heliostat model drift decide whether to give this command without it"
        problems.append(UserError("--if-drift reads what a service on this machine has kept, and --on trains elsewhere", fix))
    option = "--if-drift" if args.if_drift else "--if-new"
    args.if_new = args.if_new or args.if_drift
    if args.if_new and config.then is None:
        what = f"{option} compares with the versions of a model, and the config has no then"
        problems.append(UserError(what, "add then: [add]"))
    if args.if_new and (args.scaling or (args.dry_run and not args.on)):
        other = "--scaling" if args.scaling else "--dry-run"
        problems.append(UserError(f"{option} builds the dataset to compare it, and {other} trains nothing", "leave one out"))
    if args.cron and not args.if_new and config.then and config.then.model is None:
        problems.append(
            UserError("then has no model, and each scheduled run has a name of its own", f"set then.model: {config.name}")
        )
    if problems:
        raise combined(problems, "the command")


def with_new_data(config: Any, if_drift: bool, as_json: bool) -> tuple[Any, str]:
    """The config of the run on data that no version was trained on, and why it is trained.

    None, and it says so, if there is no such data, or with ``if_drift`` no drift.

    Raises:
        JobFailed: there is drift, and no new data.
    """
    from heliostat.commands.dataset.building import building
    from heliostat.commands.model.drift import found_in, heading
    from heliostat.console import minute, print_json
    from heliostat.errors import JobFailed
    from heliostat.workloads.plan import prepare
    from heliostat.workloads.registry.then import is_done

    name, why = config.then.model or config.name, ""
    if if_drift:
        found = found_in(name, config.storage, config.then.drift.threshold, config.then.drift.ignore)
        why = f"{heading(found)}; "
        if not found["drifted"]:
            print_json(found) if as_json else say(heading(found))
            return None, ""
    registry = registry_at(config.storage, "storage")
    versions = [listed.version for listed in registry.versions(name)] if registry.newest(name) else []
    plan = prepare(config)
    with building(plan.source, "looking for new data", as_json):
        fingerprint = plan.dataset().index.fingerprint
    then = config.then.model_copy(update={"model": name})
    named = config.model_copy(update={"name": named_by_data(config.name, fingerprint), "then": then})
    known = next((each for each in reversed(versions) if each.manifest.data.fingerprint == fingerprint), None)
    if known is None:
        was = (
            f"{versions[-1]} was trained on {versions[-1].manifest.data.fingerprint}" if versions else f"there is no {name} yet"
        )
        why += f"new data: {fingerprint}; {was}"
        _note(why)
        return named, why
    if known is versions[-1] and known.manifest.run_name == named.name and not is_done(registry, known, then):
        _note(f"{known} was added, but not all of {', '.join(then.steps)} is done yet")
        return named, why
    if if_drift:
        raise JobFailed(f"{why}but there is no new data: {known} was trained on {fingerprint}")
    if as_json:
        print_json({"new": False, "fingerprint": fingerprint, "model": name, "version": known.number})
    else:
        say(f"nothing is new: {known}, added {minute(known.manifest.added)}, was trained on this data ({fingerprint})")
        if known is not versions[-1]:
            say(f"  versions after it had other data; to return to it: heliostat model promote {known}")
    return None, ""


def named_by_data(name: str, fingerprint: str) -> str:
    """The name of the run of ``--if-new`` on the data with a fingerprint; `heliostat.commands.cost` finds it by that."""
    return f"{name[:91]}-{fingerprint[:8]}"


def with_start(config: Any) -> Any:
    """The config with the run of the version that its ``start_from`` names; checks that the steps of `then` are possible."""
    if config.then is None and (config.start_from is None or "@" not in config.start_from.path):
        return config
    from heliostat.workloads.registry.start import resolved
    from heliostat.workloads.registry.then import check

    registry = registry_at(config.storage, "storage")
    if config.then:
        check(registry, config.then.model or config.name, config.then)
    config, note = resolved(config, registry)
    if note:
        _note(note)
    return config


def follow_up(config: Any, result: Any, quiet: bool, why: str = "") -> "Followed":
    """Take the steps of `then` for a run that has finished; ``why`` it was trained is for the log of the model.

    Raises:
        UserError: the gate cannot compare; the same command goes on from there.
    """
    from heliostat.commands.job.on_worker import on_worker
    from heliostat.commands.terminal.phases import phase
    from heliostat.workloads.registry.then import follow

    name = config.then.model or config.name
    with phase(f"{', '.join(config.then.steps)}: {config.name} as {name}", quiet):
        registry = registry_at(config.storage, "storage")
        what = f"the steps after {config.name} could not be taken"
        return on_worker(what, 0, follow, registry, result.run, name, config.then, why)


def show_followed(found: "Followed") -> None:
    """Print where the version is, and why."""
    say(f"  model      {found.version}{', the champion' if found.champion else ''}")
    if found.decision:
        say(f"  gate       {'passed' if found.decision.passed else 'not passed'}: {found.why}")
    if found.promoted and not found.champion:
        say(f"  promoted   before; the champion is another version by now: heliostat model list {found.version.name}")
    elif found.passed and not found.champion:
        say(f"  promote    heliostat model promote {found.version}")


def _note(text: str) -> None:
    from heliostat.console import err

    err.print(f"heliostat: {text}", highlight=False, markup=False, soft_wrap=True)
