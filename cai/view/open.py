"""From a folder to a viewer: is it a run, what can it be compared with, and the index of each."""

from __future__ import annotations

from pathlib import Path

from cai.config import RunConfig
from cai.config_file import validate_config
from cai.errors import ConfigError
from cai.report.status import read_json
from cai.runfolder.previous import LINK, stored_constitution
from cai.view.index import Index, Told
from cai.view.state import Settings, View


def open_view(settings: Settings, told: Told | None = None) -> View:
    """The viewer of a run. Raises ConfigError where a folder is no run, StoreError where it cannot be read."""
    config = run_config(settings.run)
    constitution = stored_constitution(settings.run)
    against = settings.against or previous_of(settings.run)
    if against is not None:
        run_config(against)
    index = Index(settings.run, told)
    other = Index(against, told) if against is not None else None
    return View(settings._replace(against=against), config, constitution, index, other)


def run_config(root: Path) -> RunConfig:
    """The config that a run was started with. Raises ConfigError, and StoreError where the file is damaged."""
    path = root / "config.json"
    if not path.is_file():
        raise ConfigError(f"{root}: not a run (no config.json); runs lie in outputs/<name>")
    stored = read_json(path)
    if not isinstance(stored, dict):
        raise ConfigError(f"{path}: not a config; start the run again")
    return validate_config(stored, str(path))


def previous_of(root: Path) -> Path | None:
    """The version before the last edit of the constitution, which a run keeps; None where there was none."""
    folder = root / LINK
    return folder if (folder / "config.json").is_file() else None
