"""The scratch folder of a constitution file, `outputs/try/<name>`: a journal, and the versions that were tried.

Versions are kept with `extends` resolved and without what no model reads, so a stage runs on what was read when
the try began, whatever is saved meanwhile.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import yaml

from cai.config import RunConfig
from cai.config.training import KINDS
from cai.constitution import Constitution, load_constitution
from cai.constitution.diff import compare
from cai.constitution.principle import content_digest
from cai.errors import ConfigError, ConstitutionError
from cai.store import write_text

NAME_CHARS = 40
NO_MODEL_READS = {"tests", "source"}


def scratch_config(config: RunConfig, file: Path) -> RunConfig:
    """The config without what only a whole run needs, in the scratch folder of a constitution file."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", file.stem).strip("-_")[:NAME_CHARS]
    digest = content_digest(str(file.resolve()))[:8]
    return config.model_copy(
        update={
            "outputs": str(Path(config.outputs) / "try"),
            "name": f"{stem}-{digest}" if stem else digest,
            "constitution": str(file),
            "recipe": "direct",
            "shards": 1,
            "judge": config.judge.model_copy(update={"require_qualification": False}),
            **dict.fromkeys(KINDS),
            "evaluate": None,
            "budget": None,
        }
    )


def freeze(constitution: Constitution, path: Path) -> None:
    """Write a version as a file that `load_constitution` reads back, but for what no model reads."""
    principles = [
        principle.model_dump(mode="json", exclude=NO_MODEL_READS, exclude_defaults=True)
        for principle in constitution.principles
    ]
    head = constitution.model_dump(mode="json", include={"name", "version", "description"})
    write_text(path, yaml.safe_dump({"schema": 1, **head, "principles": principles}, sort_keys=False))


def previous_version(root: Path, constitution: Constitution) -> Constitution | None:
    """The last version tried in this folder that a run would tell from `constitution`, which is kept for next time."""
    current, previous = root / "current.yaml", root / "previous.yaml"
    last = _kept(current)
    if last is None or reached(last, constitution):
        if last is not None:
            freeze(last, previous)
        freeze(constitution, current)
    return _kept(previous)


def reached(old: Constitution | None, new: Constitution) -> list[str]:
    """Ids of the principles of which a run would notice a change, those that are gone too; all where `old` is None."""
    if old is None:
        return [principle.id for principle in new.principles]
    found = (change.principle for change in compare(old, new) if set(change.reaches) - {"tests"})
    return list(dict.fromkeys(found))


def only(constitution: Constitution, principle: str, file: str) -> Constitution:
    """The constitution with one principle alone, for critique and judgment. Raises ConfigError for an unknown id."""
    known = {one.id: one for one in constitution.principles}
    if principle not in known:
        near = difflib.get_close_matches(principle, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        raise ConfigError(f"--principle {principle}: not in {file}; {hint}")
    alone = known[principle].model_copy(update={"use": ("revise", "judge")})
    return constitution.model_copy(update={"principles": (alone,)})


def _kept(path: Path) -> Constitution | None:
    """A version of an earlier try; None where there is none, or none that can be read any more."""
    try:
        return load_constitution(path)
    except ConstitutionError:
        return None
