"""Headless Chromium, as the tests start it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking",
    "--disable-component-update",
)  # fmt: skip


def chromium() -> str:
    """The program; a test is skipped where there is none, except in the continuous integration, which installs one."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None and os.environ.get("CI") != "true":
        pytest.skip("there is no Chromium on this machine; the continuous integration installs one")
    assert found
    return found


def browse(url: str, profile: Path, *options: str) -> str:
    """What Chromium prints for a page."""
    flags = [*FLAGS, f"--user-data-dir={profile}", *options]
    done = subprocess.run([chromium(), *flags, url], check=True, capture_output=True, text=True, timeout=300)
    return done.stdout
