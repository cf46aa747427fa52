"""What a folder of weights *is*, independent of where it lies: a digest of everything that makes its replies.

A moved checkpoint keeps its journal; a retrained one, or one with another chat template, starts a new one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from cai.config import ModelConfig
from cai.errors import ConfigError

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
ADAPTER_PARTS = ("adapter_config.json", "adapter_model*")  # its tokenizer is not used: the base's is
HASHING_THREADS = 8


def served_name(config: ModelConfig) -> str:
    """The name under which an engine serves the model: the adapter's where it has one."""
    return config.adapter or config.model


def model_identity(config: ModelConfig) -> str:
    """What answers, wherever it lies: the digest of local weights, else the name; `+` that of an adapter."""
    base = weights_digest(config.model) if is_weights(config.model) else config.model
    return base if config.adapter is None else f"{base}+{adapter_digest(config.adapter)}"


def adapter_digest(folder: str) -> str:
    """32 hex digits over what a LoRA adapter adds to its base."""
    return _digest(_state(folder, ADAPTER_PARTS))


def is_weights(model: str) -> bool:
    """True where `model` is a local folder that holds a model, not a name on a hub."""
    return (Path(model) / "config.json").is_file()


def require_safetensors(folder: str) -> None:
    """Raise ConfigError for a folder whose weights are in a pickle alone, which runs code when it is loaded."""
    path = Path(folder)
    pickles = [*path.glob("*.bin"), *path.glob("*.pt"), *path.glob("*.pth")]
    if pickles and not any(path.glob("*.safetensors")):
        raise ConfigError(
            f"{folder}: its weights are a pickle ({pickles[0].name}), which runs code when it is loaded; convert "
            "them to safetensors"
        )


def weights_digest(folder: str) -> str:
    """32 hex digits over names and bytes of the files that make the model; hashed once per state of them."""
    return _digest(_state(folder, PARTS))


def _state(folder: str, patterns: Sequence[str]) -> tuple[tuple[str, int, int], ...]:
    files = sorted({path for pattern in patterns for path in Path(folder).glob(pattern) if path.is_file()})
    return tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files)


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
