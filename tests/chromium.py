"""A page in headless Chromium, as tests look at it: what its scripts make of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from waiting import HANG_S


def rendered(file: Path, fragment: str, profile: Path) -> str:
    """The page's elements after its scripts ran.

    Args:
        file: the page.
        fragment: behind the `#` of its address.
        profile: a folder for what the browser keeps.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("there is no Chromium here to run the scripts of a page")
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=5000"]
    page = f"{file.resolve().as_uri()}#{fragment}"
    done = subprocess.run(
        [found, *quiet, f"--user-data-dir={profile}", "--window-size=1200,900", "--dump-dom", page],
        capture_output=True, text=True, encoding="utf-8", timeout=HANG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
