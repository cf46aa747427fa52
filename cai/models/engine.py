"""What every vLLM engine that a run starts is given, and how it is explained when it ends: managed or in process.

The flags are vLLM's own, those of the config last, so that the config has the last word. On top of vLLM's
defaults: prefix caching is on and its hits are counted in each reply, JSON holds no filler, and LoRA adapters
are served by name beside their base.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import orjson

from cai.config import ManagedConfig
from cai.errors import ConfigError, EngineDied, ServerError
from cai.models.weights import is_weights

RESERVED = frozenset({"model", "served-model-name", "api-key", "lora-modules"})
# a weak model fills constrained JSON with whitespace until the limit, and no field of a request stops it
STRUCTURED = '{"backend": "xgrammar", "disable_any_whitespace": true}'
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's --max-lora-rank may be
CPU_INFO = Path("/proc/cpuinfo")
FEW_CORES = 2  # vLLM leaves one of them free on CPU, so its worker has one thread
CPU_BLOCK = 32  # tokens; only whole blocks are cached, and vLLM's 128 on CPU is more than most prompts share
LOG_TAIL = 65536
LINE_CHARS = 300
TELLING = re.compile(r"(\w+(Error|Exception)|\berror|Killed|Out of memory)\b.*: ?\S")
IN_USE = "while it was in use"
HOLLOW = re.compile(r"See root cause above|Traceback|raise \w|During handling")
PREFIX = re.compile(r"^(\(\w+ pid=\d+\) )?((ERROR|WARNING|CRITICAL) [\d-]+ [\d:]+ \[[^\]]*\] ?)?")
Arg = str | int | float | bool


def engine_flags(
    model: str, config: ManagedConfig, adapters: Sequence[str] = (), fixed: dict[str, Arg] | None = None
) -> list[str]:
    """vLLM's command line for `model`. `adapters`: folders of LoRA adapters; `fixed`: what the config cannot change.

    Raises ConfigError where vLLM is missing, a folder holds no model or adapter, or the config sets what the
    run has to set.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError("vLLM is not installed; install cai[vllm], or run cai/install.py without a GPU")
    if not is_weights(model) and (model.startswith(("/", ".", "~")) or Path(model).is_dir()):
        raise ConfigError(f"{model}: no folder with a model in it (no config.json)")
    args = {name.lstrip("-").replace("_", "-"): value for name, value in config.args.items()}
    if taken := RESERVED & args.keys():
        raise ConfigError(f"managed.args: {', '.join(sorted(taken))} is set by the run; leave it out")
    first: dict[str, Arg] = {
        "model": model,
        "served-model-name": model,
        "structured-outputs-config": STRUCTURED,
        "enable-prefix-caching": True,
        "enable-prompt-tokens-details": True,
        "disable-uvicorn-access-log": True,
    }
    if not has_gpu():
        # vLLM rewinds the generator of a seeded request after a partial prefill; a CPU generator cannot
        first["enable-chunked-prefill"] = False
        first["block-size"] = CPU_BLOCK
        if not has_bf16(CPU_INFO):
            first["dtype"] = "float32"  # bfloat16 without instructions for it is three times slower
    modules: list[str] = []
    if adapters:
        first |= {"enable-lora": True, "max-loras": len(adapters), "max-lora-rank": _rank(adapters)}
        modules = [orjson.dumps({"name": path, "path": path}).decode() for path in adapters]
    flags: list[str] = []
    for name, value in {**first, **args, **(fixed or {})}.items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        else:
            flags += [f"--{name}", str(value)]
    return flags + (["--lora-modules", *modules] if modules else [])


def _rank(adapters: Sequence[str]) -> int:
    """The smallest rank that vLLM knows and all adapters fit in."""
    highest = max(adapter_rank(path) for path in adapters)
    fitting = [rank for rank in LORA_RANKS if rank >= highest]
    if not fitting:
        raise ConfigError(
            f"an adapter of rank {highest}: vLLM serves up to {LORA_RANKS[-1]}; merge it instead"
        )
    return fitting[0]


def adapter_rank(folder: str) -> int:
    """The rank of a LoRA adapter, from its own config. Raises ConfigError where the folder holds none."""
    path = Path(folder) / "adapter_config.json"
    try:
        config = orjson.loads(path.read_bytes())
        ranks = (config["r"], *(config.get("rank_pattern") or {}).values())
        return max(int(rank) for rank in ranks)
    except OSError as error:
        raise ConfigError(
            f"adapter {folder}: no LoRA adapter there ({path.name}: {error.strerror})"
        ) from error
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: not the config of a LoRA adapter ({error!r})") from error


def engine_environment(model: str, config: ManagedConfig) -> dict[str, str]:
    """What the environment of an engine has beyond ours: what a machine without a GPU needs, then the config's."""
    defaults = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if not has_gpu():
        memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        defaults |= {
            "VLLM_TARGET_DEVICE": "cpu",
            "VLLM_CPU_KVCACHE_SPACE": str(max(1, min(8, int(memory_gb / 16)))),
        }
        if (os.cpu_count() or 1) <= FEW_CORES:
            # the worker has a process of its own only to bind its threads to cores: with one thread it lives in
            # the engine's, which comes up with a third less CPU time and 0.8 GB less, and answers no slower
            defaults |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
    if is_weights(model):
        defaults |= {"HF_HUB_OFFLINE": "1"}
    return {**defaults, **config.env}


@cache
def has_gpu() -> bool:
    """True where an NVIDIA or AMD device is visible; cheap, without torch."""
    devices = (Path("/dev/nvidiactl"), Path("/dev/kfd"))
    return any(device.exists() for device in devices) or shutil.which("nvidia-smi") is not None


def has_bf16(info: Path) -> bool:
    """True where the processor described in `info` computes in bfloat16; also where there is no such file."""
    try:
        return (
            re.search(r"^(flags|Features)\s*:.*\b(avx512_bf16|amx_bf16|bf16)\b", info.read_text(), re.M)
            is not None
        )
    except OSError:
        return True


def died(model: str, what: str, when: str, log_path: Path, start: int) -> ServerError:
    """The error for an engine that is gone, with its own last words; EngineDied where `when` is IN_USE."""
    words = last_words(log_path, start)
    kind = EngineDied if when == IN_USE else ServerError
    return kind(f"{model}: the vLLM {what} died {when}: {words} (log: {log_path})")


def too_slow(model: str, what: str, timeout_s: float, log_path: Path) -> ServerError:
    """The error for an engine that does not come up in time."""
    return ServerError(
        f"{model}: the vLLM {what} was not ready after {timeout_s:g} s; raise start_timeout_s, or see what it "
        f"waits for in {log_path}"
    )


def last_words(log_path: Path, start: int = 0) -> str:
    """The last line of a log, from byte `start`, that tells why a server ended; else just its last line."""
    with log_path.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(start, size - LOG_TAIL))
        text = log.read().decode("utf-8", "replace")
    lines = [PREFIX.sub("", line).strip() for line in text.splitlines()]
    telling = [line for line in lines if TELLING.search(line) and not HOLLOW.search(line)]
    last = next(iter(reversed(telling or [line for line in lines if line])), "it wrote nothing")
    return last[:LINE_CHARS]
