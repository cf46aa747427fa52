"""The figures of measured checkpoints, one file a cell, and the committed file that is made of them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from benchmarks.losses_cells import SETTINGS
from cai.store import write_json


def read_kept(kept: Path, digest: str) -> dict[str, Any] | None:
    """The figures of a cell, if they are kept and of this digest."""
    found: dict[str, Any] | None = json.loads(kept.read_text()) if kept.is_file() else None
    return found if found is not None and found["digest"] == digest else None


def write_result(path: Path, folder: Path) -> None:
    """The committed file: when, on what, and the figures of every cell that was kept, in a fixed order."""
    kept = [json.loads(one.read_text()) for one in (folder / "cells").glob("*.json")]
    order = sorted(
        (one for one in kept if one["settings"] == SETTINGS),
        key=lambda one: (one["noise"] or "", one["rate"], one["method"], one["seed"]),
    )
    left_out = ("digest", "settings")
    cells = [{name: value for name, value in one.items() if name not in left_out} for one in order]
    path.parent.mkdir(parents=True, exist_ok=True)
    measured = {"measured": time.strftime("%Y-%m-%d", time.gmtime()), "cores": os.cpu_count()}
    write_json(path, {**measured, "settings": SETTINGS, "cells": cells})
