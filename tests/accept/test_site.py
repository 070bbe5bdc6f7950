"""The site of docs/, built strictly: no warning, every page, and nothing that a browser loads from elsewhere."""

import re
import subprocess
from pathlib import Path

from tests.accept.conftest import overlay
from tests.conftest import ROOT

LOADED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^>]*>|url\((?:https?:)?//[^)]*\)")


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    programs = overlay(tmp_path / "venv", "-r", str(ROOT / "docs/site/requirements.txt"))
    site = tmp_path / "site"
    command = [str(programs / "python"), "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert all((site / page).is_file() for page in {*pages, Path("readme.html"), Path("changelog.html")})
    for file in [*site.rglob("*.html"), *site.rglob("*.css")]:
        assert LOADED.findall(file.read_text()) == [], file
    shown = (site / "interface.html").read_text()
    assert all(f'id="heliostat.{name}"' in shown for name in ("train", "Run", "load_sweep"))
