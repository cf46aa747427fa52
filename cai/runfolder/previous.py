"""The version before an edit of the constitution: what a finished run held when the next one starts with another.

Published files are replaced, never written into, so a hard link keeps a version for as long as it is needed, at no
cost. `<run>/previous` is a link to the folder that holds it, switched in one step: whoever is killed leaves the one
before or the new one, and starting again does the rest.
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any

from cai.config import RunConfig
from cai.constitution import Constitution
from cai.constitution.diff import Change, compare
from cai.errors import StoreError
from cai.given import read_given
from cai.pipeline import digest, rows_file, shards_of
from cai.prompts import load_templates
from cai.report.status import read_json, whole_json
from cai.store import decode, explain, guard, link_or_copy, sync_folder

STAGES = ("revise", "judge", "sft-judge", "pairs")
FILES = ("config.json", "constitution.json", "summary.json")
LINK = "previous"


def keep_previous(config: RunConfig, constitution: Constitution) -> None:
    """Keep the finished version in the run's folder where `constitution` is another one to a draw or a model.

    Anything else leaves `previous` as it is: a run that was not finished, an edit for readers only, another config.
    Only for whoever holds the run, and before anything in it changes. Raises StoreError.
    """
    root = config.root
    if (whole_json(root / "summary.json") or {}).get("state") != "finished":
        return
    try:
        old, held = stored_constitution(root), RunConfig.model_validate(read_json(root / "config.json"))
    except (StoreError, ValueError):
        return  # of another release: nothing to compare with
    if not effective(compare(old, constitution)):
        return
    folder = root / f".{LINK}-{secrets.token_hex(4)}"
    with guard(folder):
        folder.mkdir()
        for name in FILES:
            link_or_copy(root / name, folder / name)
        for stage in STAGES:
            for shard in range(shards_of(held, stage)):
                if (rows := rows_file(root, stage, shard)).is_file():
                    (folder / stage).mkdir(exist_ok=True)
                    link_or_copy(rows, rows_file(folder, stage, shard))
        for made in (*(path for path in folder.iterdir() if path.is_dir()), folder):
            sync_folder(made)
        switch = root / f".{LINK}-{secrets.token_hex(4)}.tmp"
        switch.symlink_to(folder.name)
        switch.replace(root / LINK)
        sync_folder(root)
        _remove_others(root, folder.name)


def effective(changes: list[Change]) -> list[Change]:
    """The changes that reach a draw, a model or a label, and so a run."""
    return [change for change in changes if not {"tests"}.issuperset(change.reaches)]


def stored_constitution(root: Path) -> Constitution:
    """The constitution that a run was started with. Raises StoreError."""
    path = root / "constitution.json"
    with guard(path):
        try:
            return decode(read_given(path), Constitution)
        except ValueError as error:
            raise StoreError(f"{path}: not a constitution of this version ({explain(error)})") from error


def templates_digest(config: RunConfig) -> str:
    """32 hex digits over the templates of a run, which its config names by folder only."""
    return digest(load_templates(config.templates))


def config_changes(config: RunConfig) -> list[str]:
    """What of the config, besides the constitution, may have changed rows since `previous`, as dotted keys."""
    before, after = read_json(config.root / LINK / "config.json"), config.model_dump(mode="json")
    old, new = _effective(before), _effective(after)
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    texts = read_json(config.root / LINK / "summary.json").get("templates")
    if texts not in (None, templates_digest(config)) and "templates" not in keys:
        keys.append("templates")
    return keys


def _effective(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of a stored config that rows depend on; of a model, who it is and not where."""
    found = {key: config[key] for key in ("seed", "recipe", "templates", "shards", "prompts")}
    if config["recipe"] == "paper":  # its SFT model is sampled
        found["sft"] = config["sft"]
    for section in ("policy", "critic", "judge", "pairs"):
        found |= {f"{section}.{key}": value for key, value in config[section].items()}
    used = {config["policy"]["model"], config["critic"]["model"]}
    judge = config["judge"]
    used |= {judge["model"]} if judge["model"] else {*judge["jury"], *judge["cascade"]}
    for name in used:
        found |= {
            f"models.{name}.{key}": config["models"][name][key] for key in ("backend", "model", "logprobs")
        }
    return found


def _remove_others(root: Path, kept: str) -> None:
    """Remove what `previous` pointed to before, and what killed runs left."""
    for path in root.glob(f".{LINK}-*"):
        if path.name != kept:
            path.unlink() if path.is_symlink() else shutil.rmtree(path)
