"""The licences of what an installation brings, from the metadata of the packages that are installed here."""

from __future__ import annotations

import re
import sysconfig
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cai.install import ROOT, constraints

PAGE = ROOT / "docs" / "licences.md"
FREE = re.compile(
    r"MIT|Apache|BSD|ISC|PSF|Python Software Foundation|Unlicense|MPL|Mozilla|LGPL|Lesser|CC0|CNRI|Artistic",
    re.IGNORECASE,
)
BOUND = re.compile(
    r"\bA?GPL|General Public|Proprietary|End User|SSPL|BUSL|Commons Clause|Non-?Commercial", re.IGNORECASE
)
LESSER = re.compile(r"GNU Lesser General Public License[^;]*|LGPL\S*")
UNTOLD = {  # what the metadata leaves out, read in the package's own licence file
    "axe-playwright-python": "MIT",
    "oss-harmony": "Apache-2.0",
    "prometheus-fastapi-instrumentator": "ISC",
}
NOTED = {  # those that are not free, or only in part, and why they are taken
    "intel-cmplr-lib-ur": "of Intel's OpenMP; may be redistributed, not changed; comes with vLLM's build for CPUs",
    "intel-openmp": "Intel's OpenMP; may be redistributed, not changed; comes with vLLM's build for CPUs",
    "text-unidecode": "taken under the Artistic License, which is one of the two that it is offered under",
}
HEAD = """\
# Licences of dependencies

Made by `make lock` from the metadata of what is installed; a test holds it against that. cai itself is under
Apache-2.0, and ships none of these packages: an installation fetches them.
"""


class Package(NamedTuple):
    """An installed package. `why`: of one that `pyproject.toml` asks for; `by`: the packages that bring it along."""

    name: str
    version: str
    licence: str
    why: str | None
    by: tuple[str, ...]


def direct() -> dict[str, str]:
    """What `pyproject.toml` asks for, and the reason that stands beside it."""
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    asked = [
        *project["dependencies"],
        *(one for ones in project["optional-dependencies"].values() for one in ones),
    ]
    found: dict[str, str] = {}
    for line in asked:
        reason = re.search(rf'^  "{re.escape(line)}",?\s*# (.*)$', text, re.MULTILINE)
        found[canonicalize_name(Requirement(line).name)] = reason[1] if reason else ""
    return found


def licence_of(package: Distribution) -> str:
    """In the package's own words: its expression, its classifiers, or its field; "" where it says nothing."""
    told = package.metadata
    if (found := told.json.get("license_expression")) is not None:
        return str(found)
    classifiers = [line for line in told.get_all("Classifier") or [] if line.startswith("License ::")]
    named = [line.rpartition(" :: ")[2] for line in classifiers]
    named = [name for name in named if name not in ("OSI Approved", "DFSG approved")]
    first = str(told.json.get("license") or "").strip().partition("\n")[0][:80]
    return "; ".join(named) or UNTOLD.get(canonicalize_name(package.name)) or first


def is_free(licence: str) -> bool:
    """Whether a licence is permissive, or asks for no more than that changes to the package itself stay open."""
    return FREE.search(licence) is not None and BOUND.search(LESSER.sub("", licence)) is None


def installed_here() -> dict[str, Distribution]:
    """What is installed in this environment by name; not what some of it carries along for itself."""
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    return {canonicalize_name(one.name): one for one in distributions(path=folders)}


def packages() -> Iterator[Package]:
    """Every installed package that the constraints name, by name."""
    asked = direct()
    by: dict[str, set[str]] = defaultdict(set)
    pinned = {name for gpu in (False, True) for name in names(gpu)}
    installed = installed_here()
    for name, one in installed.items():
        for line in one.requires or ():
            by[canonicalize_name(Requirement(line).name)].add(name)
    for name in sorted(pinned & installed.keys()):
        found = installed[name]
        yield Package(
            name, found.version, licence_of(found), asked.get(name), tuple(sorted(by[name] - {"cai"}))
        )


def names(gpu: bool) -> set[str]:
    """The packages that a constraint file names."""
    lines = constraints(gpu).read_text().splitlines()
    return {canonicalize_name(Requirement(line).name) for line in lines if line and not line.startswith("#")}


def page() -> str:
    """The page of the docs."""
    found = list(packages())
    lines = [
        HEAD,
        "## Asked for by cai\n",
        "| package | version | licence | what for |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {p.name} | {p.version} | {p.licence} | {p.why} |" for p in found if p.why is not None]
    lines += ["\n## Brought along by those\n", "| package | version | licence | comes with |"]
    lines += ["| --- | --- | --- | --- |"]
    lines += [f"| {p.name} | {p.version} | {p.licence} | {_some(p.by)} |" for p in found if p.why is None]
    lines += ["\n## Not free, or only in part\n"]
    lines += [f"- **{name}**: {why}." for name, why in NOTED.items()]
    absent = sorted((names(True) | names(False)) - {p.name for p in found})
    lines += ["\n## Not on the machine where this was made\n"]
    lines += [
        "Taken with a GPU, with DeepSpeed or on another system; NVIDIA's (`nvidia-…`, `cuda-…`) are under its own"
    ]
    lines += [f"terms, the others' metadata tells theirs: {', '.join(absent)}."]
    return "\n".join(lines) + "\n"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
