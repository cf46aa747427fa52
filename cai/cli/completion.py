"""What a shell completes: folders of runs, and config files; looked up when Tab is pressed, without heavy imports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

OUTPUTS = Path("outputs")


def complete_run(incomplete: str) -> list[str]:
    """Folders of runs, and those on the way to some, that begin with what was typed; nothing typed: outputs/."""
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    found = map(str, _folders(folder if incomplete else OUTPUTS))
    return sorted(name for name in found if name.startswith(incomplete.removeprefix("./")))


def complete_config(incomplete: str) -> list[str]:
    """YAML files and folders that begin with what was typed."""
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    try:
        found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError:
        return []
    names = [str(path) for path in found if path.suffix in (".yaml", ".yml")]
    names += [f"{path}/" for path in found if path.is_dir()]
    return sorted(name for name in names if name.startswith(incomplete.removeprefix("./")))


def _folders(place: Path) -> Iterator[Path]:
    """Runs in a folder, and folders that hold some."""
    try:
        inside = [path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        return
    for path in inside:
        if (path / "config.json").is_file() or any(path.glob("*/config.json")):
            yield path
