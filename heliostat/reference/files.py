"""The generated files and their contents."""

import json
from pathlib import Path

from heliostat import cluster
from heliostat.cluster.dashboards.panels import DASHBOARDS, document
from heliostat.completion import SCHEMAS
from heliostat.reference.pages import commands_page, metrics_page, page
from heliostat.reference.picture import picture
from heliostat.reference.schemas import schemas

FOLDER = Path(cluster.__file__).with_name("dashboards")
DOCS = Path(__file__).parents[2] / "docs"
PAGES = DOCS / "reference"


def generated() -> dict[Path, str]:
    """The contents of each file."""
    found = schemas()
    return {
        **{SCHEMAS / f"{name}.json": json.dumps(schema, indent=1) + "\n" for name, schema in found.items()},
        **{PAGES / f"{name}.md": page(schema) for name, schema in found.items()},
        PAGES / "commands.md": commands_page(),
        PAGES / "metrics.md": metrics_page(),
        **{FOLDER / f"{each.name}.json": json.dumps(document(each), indent=1) + "\n" for each in DASHBOARDS},
        DOCS / "architecture.svg": picture(),
    }


def write() -> None:
    """Write all of them."""
    for path, text in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(f"wrote {path}")
