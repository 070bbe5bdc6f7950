"""The blocks of code in the pages of the documentation."""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/howto").glob("*.md"))]
"""The pages that are written by hand."""
HOWTOS = sorted((ROOT / "docs/howto").glob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w./-]+\.\w+)$")


@dataclass(frozen=True)
class Block:
    """A block: its page, the line of its first line, its language (empty, sh, python, yaml, ...) and its text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str:
        """The path that its first line, a comment, names: what a reader writes the block into; empty if it names none."""
        found = FILE.match(self.text.partition("\n")[0])
        return found[1] if found else ""

    @property
    def commands(self) -> list[str]:
        """The lines of a block for a shell, those that go on with a backslash as one."""
        return self.text.replace("\\\n", " ").splitlines() if self.language in ("", "sh", "bash") else []


def blocks(page: Path) -> list[Block]:
    """All blocks of a page."""
    text = page.read_text()
    return [Block(page, text.count("\n", 0, found.start()) + 2, found[1], found[2]) for found in FENCE.finditer(text)]
