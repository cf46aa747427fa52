"""Which state of a hub's models and datasets a run works with: settled once, and the same whenever it goes on.

A name on a hub means whatever was uploaded last. So the commit that it stands for is asked for once and kept in the
run's folder; datasets are read and engines started at that commit, and the run's record names it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

from cai.config import ManagedConfig, ModelConfig, RunConfig, SourceConfig, TrainingConfig
from cai.models.weights import adapter_digest, is_weights, weights_digest
from cai.report.status import read_json
from cai.store import file_sha256, write_json

FILE = "revisions.json"
COMMIT = re.compile(r"[0-9a-f]{40}")
ASKING_S = 10.0
Trained = TypeVar("Trained", bound=TrainingConfig)
Kind = Literal["model", "dataset"]


def pinned_sources(root: Path, sources: Iterable[SourceConfig]) -> tuple[SourceConfig, ...]:
    """The sources with the commits of hub datasets as their revisions, as far as these can be known."""
    return tuple(
        source
        if source.dataset is None
        or (commit := pinned(root, "dataset", source.dataset, source.revision)) is None
        else source.model_copy(update={"revision": commit})
        for source in sources
    )


def pinned_prompts(config: RunConfig) -> RunConfig:
    """The config with all its sources so."""
    changes: dict[str, Any] = {"prompts": pinned_sources(config.root, config.prompts)}
    if config.evaluate is not None:
        sources = pinned_sources(config.root, config.evaluate.sources)
        changes["evaluate"] = config.evaluate.model_copy(update={"sources": sources})
    return config.model_copy(update=changes)


def pinned_engine(root: Path, model: ModelConfig) -> ManagedConfig:
    """How a model's engine is started: a hub's at its commit, from safetensors alone unless `args` say otherwise."""
    assert model.managed is not None
    if is_weights(model.model) or Path(model.model).exists():
        return model.managed
    args = {name.lstrip("-").replace("_", "-"): value for name, value in model.managed.args.items()}
    args = {"load-format": "safetensors", **args}
    asked = str(args["revision"]) if "revision" in args else None
    if (commit := pinned(root, "model", model.model, asked)) is not None:
        args = {"tokenizer-revision": commit, **args, "revision": commit}
    return model.managed.model_copy(update={"args": args})


def pinned(root: Path, kind: Kind, name: str, revision: str | None) -> str | None:
    """The commit that a name on the hub stands for in this run; None where neither hub nor cache can tell."""
    if Path(name).exists():
        return None
    known: dict[str, str] = read_json(root / FILE) or {}
    key = f"{kind} {name}@{revision or 'main'}"
    if key not in known and (commit := _commit(kind, name, revision or "main")) is not None:
        known[key] = commit
        write_json(root / FILE, dict(sorted(known.items())))
    return known.get(key)


def _commit(kind: Kind, name: str, revision: str) -> str | None:
    """Asked of the hub, else of its cache on this machine."""
    if COMMIT.fullmatch(revision):
        return revision
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.file_download import repo_folder_name

    try:
        token = os.environ.get("HF_TOKEN", "").strip() or False  # of the environment alone
        found = HfApi(token=token).repo_info(name, repo_type=kind, revision=revision, timeout=ASKING_S)
        return str(found.sha)
    except HFValidationError:
        return None
    except (HTTPError, OfflineModeIsEnabled, OSError):
        place = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind) / "refs" / revision
        return place.read_text().strip() if place.is_file() else None


def pinned_training(root: Path, base: str, section: Trained) -> Trained:
    """The section of a training that starts from `base`, at its commit where that is a hub's."""
    given = section.args.get("model_init_kwargs") or {}
    if (commit := pinned(root, "model", base, given.get("revision"))) is None:
        return section
    args = section.args | {"model_init_kwargs": given | {"revision": commit}}
    return section.model_copy(update={"args": args})


def trusts_code(model: ModelConfig) -> bool:
    """True where the config has the engine run code that comes with the model."""
    args = model.managed.args if model.managed is not None else {}
    return any(
        value for name, value in args.items() if name.lstrip("-").replace("_", "-") == "trust-remote-code"
    )


def record(config: RunConfig) -> dict[str, str]:
    """What a run that is through was made from: commits on a hub, digests of files and weights on this machine."""
    found: dict[str, str] = dict(read_json(config.root / FILE) or {})
    for source in (*config.prompts, *(config.evaluate.sources if config.evaluate else ())):
        if source.path is not None and (digest := file_sha256(Path(source.path))) is not None:
            found[f"file {source.path}"] = f"sha256:{digest}"
    for model in config.models.values():
        if model.managed is not None and is_weights(model.model):
            found[f"model {model.model}"] = f"blake2b:{weights_digest(model.model)}"
        if trusts_code(model):
            found[f"code of {model.model}"] = "trusted"
        if model.adapter is not None:
            found[f"adapter {model.adapter}"] = f"blake2b:{adapter_digest(model.adapter)}"
    return dict(sorted(found.items()))
