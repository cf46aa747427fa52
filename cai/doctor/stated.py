"""What the project states that it needs, and what of it is installed."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

PROJECT = Path(__file__).parent.parent.parent / "pyproject.toml"
CHECKOUT = PROJECT.is_file()
INSTALL = "python3 cai/install.py" if CHECKOUT else "pip install '{}'"


class Stated(NamedTuple):
    """`python`: versions; `base`: requirements of every run; `extras`: those of each extra."""

    python: str
    base: tuple[str, ...]
    extras: dict[str, tuple[str, ...]]


@cache
def stated() -> Stated:
    """From `pyproject.toml` in a checkout, where what was installed may be older; else from the package's metadata."""
    if CHECKOUT:
        project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
        extras = {name: tuple(found) for name, found in project["optional-dependencies"].items()}
        return Stated(project["requires-python"], tuple(project["dependencies"]), extras)
    found = metadata("cai")
    parsed = [Requirement(text) for text in requires("cai") or ()]
    extras = {
        name: tuple(str(one) for one in parsed if one.marker and one.marker.evaluate({"extra": name}))
        for name in found.get_all("Provides-Extra") or ()
    }
    base = tuple(str(one) for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""}))
    always = set(base)
    return Stated(
        found["Requires-Python"],
        base,
        {name: tuple(one for one in ones if one not in always) for name, ones in extras.items()},
    )


def installed(name: str) -> str | None:
    """The installed version of a package; None where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def unmet(requirements: Iterable[str]) -> list[str]:
    """What of these is absent or of another version, in words."""
    found = []
    for text in requirements:
        one = Requirement(text)
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        have = installed(one.name)
        if have is None:
            found.append(f"{one.name} absent")
        elif not one.specifier.contains(have, prereleases=True):
            found.append(f"{one.name} {have} (wants {one.specifier})")
    return found
