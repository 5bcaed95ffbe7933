"""Where tests put the pictures that they take of what people see."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

VARIABLE = "SWARM_PICTURES"
"""Set it to anything, and the pictures of the documentation are made anew; else the tests leave the tree alone."""

FOLDER = Path(__file__).parent.parent / "docs" / "pictures"


def picture_path(name: str, otherwise: Path) -> Path:
    """Return where the picture `name` goes: into the documentation if that is asked for, else to the test's folder."""
    folder = FOLDER if os.environ.get(VARIABLE) else otherwise
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.png"


def chromium() -> str | None:
    """Return the browser of this machine, None if there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
