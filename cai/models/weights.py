"""What a folder of weights *is*, independent of where it lies: a digest of everything that makes its replies.

A moved checkpoint keeps its journal; a retrained one, or one with another chat template, starts a new one.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

PARTS = (
    "*.safetensors",
    "pytorch_model*.bin",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
)
HASHING_THREADS = 8


def is_weights(model: str) -> bool:
    """True where `model` is a local folder that holds a model, not a name on a hub."""
    return (Path(model) / "config.json").is_file()


def weights_digest(folder: str) -> str:
    """32 hex digits over names and bytes of the files that make the model; hashed once per state of them."""
    files = sorted({path for pattern in PARTS for path in Path(folder).glob(pattern) if path.is_file()})
    return _digest(tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files))


@lru_cache(maxsize=64)
def _digest(files: tuple[tuple[str, int, int], ...]) -> str:
    """`files`: path, mtime and size; the last two are only there to miss the cache when a file changed."""
    total = hashlib.blake2b(digest_size=16)
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        paths = [Path(path) for path, _, _ in files]
        for path, digest in zip(paths, pool.map(_file_digest, paths), strict=True):
            total.update(path.name.encode() + b"\0" + digest)
    return total.hexdigest()


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
