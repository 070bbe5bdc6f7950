"""heliostat dataset build|info|verify: builds, describes and verifies datasets."""

import argparse
from typing import Any


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="build|info|verify", required=True)
    build = verbs.add_parser("build", help="build a dataset from a source", description="Build a dataset from a source.")
    build.add_argument(
        "source",
        metavar="SOURCE",
        help="digits, breast-cancer, python-stdlib, text, images or table, or module:Name of your own",
    )
    build.add_argument("out", metavar="OUT", help="the folder or URI to write")
    build.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="an option of the source, such as path=photos"
    )
    build.epilog = "example: heliostat dataset build table data/wine --set path=wine.csv --set target=quality"
    for verb, help_line in (
        ("info", "show the samples, fields and size of a dataset"),
        ("verify", "read every byte and compare the checksums"),
    ):
        verbs.add_parser(verb, help=help_line, description=help_line).add_argument("out", metavar="DATASET")
    for verb_parser in verbs.choices.values():
        verb_parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    from heliostat.datasets import Dataset

    if args.verb == "build":
        from heliostat.commands.building import building
        from heliostat.config import assignments
        from heliostat.datasets import build
        from heliostat.datasets.sources import open_source

        source = open_source(args.source, assignments(args.set))
        with building(source, quiet=args.json):
            dataset = build(source, args.out)
        _show(dataset, args)
        return 0
    dataset = Dataset.open(args.out)
    if args.verb == "info":
        _show(dataset, args)
        return 0
    return _verify(dataset, args)


def _show(dataset: Any, args: argparse.Namespace) -> None:
    from heliostat.console import out, print_json
    from heliostat.datasets.splits import described

    index = dataset.index
    if args.json:
        print_json({"uri": args.out, **index.model_dump(mode="json")})
        return
    rows = ", ".join(f"{index.rows(split):,} {split}" for split in index.splits)
    size = sum(shard.bytes for shards in index.splits.values() for shard in shards)
    for name, text in {
        "dataset": args.out,
        "source": index.source,
        "fields": ", ".join(f"{name}: {field}" for name, field in index.fields.items()),
        "samples": rows,
        "split": described(index.meta.get("split", {})),
        "size": f"{size / 1e6:.1f} MB in {sum(map(len, index.splits.values()))} shards",
        "classes": ", ".join(index.classes) or "none",
        **({"skipped": f"{index.meta['skipped']} files that are no images"} if "skipped" in index.meta else {}),
        "fingerprint": index.fingerprint,
    }.items():
        out.print(f"{name:<12}{text}", highlight=False, markup=False, soft_wrap=True)


def _verify(dataset: Any, args: argparse.Namespace) -> int:
    from heliostat.console import out, print_json

    wrong = dataset.verify()
    if args.json:
        print_json({"uri": args.out, "ok": not wrong, "wrong": wrong})
    else:
        out.print("\n".join(wrong) or f"{args.out} is undamaged", highlight=False, markup=False, soft_wrap=True)
    return 1 if wrong else 0
