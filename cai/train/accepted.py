"""Which training options TRL has accepted before: to ask it costs seconds of imports, and its answer stays the same.

One empty file for each digest of options, packages and machine, in the user's cache folder. What is refused is never
kept, and where the folder cannot be used every run asks again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import orjson

from cai.config import Kind, TrainingConfig
from cai.train.refuse import config_path

# whose options they are, and which decides what the machine can do
PACKAGES = ("trl", "transformers", "accelerate", "peft", "torch", "deepspeed", "bitsandbytes")


def note_of(sections: Mapping[Kind, TrainingConfig]) -> Path:
    """The file that says that these sections were accepted, by these packages and on a machine like this one."""
    files = [
        config_path(str(given)) for one in sections.values() if (given := one.accelerate.get("config_file"))
    ]
    code = sorted(Path(__file__).parent.glob("*.py"))
    parts = [
        {kind: section.model_dump(mode="json") for kind, section in sections.items()},
        {name: _version(name) for name in PACKAGES},
        sys.version,
        sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*")),
        os.environ.get("CUDA_VISIBLE_DEVICES"),
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in (*files, *code)],
    ]
    body = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    return _folder() / hashlib.blake2b(body, digest_size=16).hexdigest()


def note(path: Path) -> None:
    """Keep that they were accepted, where that is possible."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "cai" / "training-options"


def _version(name: str) -> str | None:
    with contextlib.suppress(PackageNotFoundError):
        return version(name)
    return None
