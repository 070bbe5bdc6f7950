"""Of the site: what pages link to outside of docs/ becomes part of it, so that all links are checked and work offline.

README.md, CHANGELOG.md, CONTRIBUTING.md and SECURITY.md become pages; another file is copied as it is.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Files beside docs/ that are pages of the site, and their names there."""
COPIES = "files"
"""The folder of the site with copies of other files."""
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand beside docs/."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead each link of a page that leaves docs/ to its part of the site."""
    docs, source = Path(config.docs_dir), page.file.src_uri
    beside = {target: name for name, target in PAGES.items()}.get(source)
    folder = ROOT if beside else (docs / source).parent
    up = "../" * source.count("/")

    def led(found: re.Match[str]) -> str:
        before, link, anchor = found[1], found[2], found[3] or ""
        if "://" in link or link.startswith("mailto:"):
            return found[0]
        path = (folder / link).resolve()
        if path.is_relative_to(docs):
            return f"{before}{up}{path.relative_to(docs)}{anchor})" if beside else found[0]
        if not path.is_file():
            raise PluginError(f"{beside or source} links to {link}, which is no file")
        name = path.relative_to(ROOT).as_posix()
        target = PAGES.get(name) or f"{COPIES}/{name}{'.txt' if path.suffix in ('.md', '') else ''}"
        if files.get_file_from_path(target) is None:
            files.append(File.generated(config, target, content=path.read_bytes()))
        return f"{before}{up}{target}{anchor})"

    return LINK.sub(led, markdown)
