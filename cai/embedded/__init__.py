"""The embedded default: a toy world with exact rules, a tiny model trained on it, the recipe of both.

Importing this package is cheap: only the two folders are named here. `world` holds the language, `check`
the truth about it, `corpus` the training samples, `build` the recipe; only `train`, `measure` load torch.
"""

from __future__ import annotations

from pathlib import Path

MODEL_DIR: Path = Path(__file__).parent / "weights"
DATA_DIR: Path = Path(__file__).parent / "data"
