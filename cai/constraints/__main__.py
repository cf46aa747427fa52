"""Make the constraint files and the page of licences anew: `python -m cai.constraints [--upgrade]`.

uv resolves for all Pythons and both processors that are supported. What is installed where this runs, which is what
the tests have passed with, is taken before newer versions, unless `--upgrade` is given. Nothing but names, versions
and markers is written: where they come from is the business of whoever installs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from pathlib import Path

from packaging.requirements import Requirement

from cai.constraints.licences import PAGE, installed_here, page
from cai.install import MISMATCHED, ROOT, TORCH, VLLM_CPU, constraints, uv_environment

PYTHON = "3.11"  # the lowest; the highest is that of `requires-python`
MACHINES = ("x86_64", "aarch64")
CUDA = ("nvidia-", "cuda-")  # what the plain torch carries and its CPU build does not
HEADER = """\
# Made by `make lock`; do not edit. {what}
# Resolved on {day} for Python {requires} on Linux ({machines}); tested on Python {python}.
"""


def installed() -> list[str]:
    """`name==version` of everything that is installed here, but for cai and local builds."""
    found = {name: one.version for name, one in installed_here().items()}
    return sorted(
        f"{name}=={version}" for name, version in found.items() if name != "cai" and "+" not in version
    )


def tidy(lines: list[str]) -> list[str]:
    """Constraints sorted by name; a marker stays only where a package has several versions."""
    parsed = [Requirement(line) for line in lines if line.strip() and not line.startswith(("#", "-"))]
    counts = Counter(one.name for one in parsed)
    for one in parsed:
        if counts[one.name] == 1:
            one.marker = None
    return sorted(str(one) for one in parsed)


def resolved(uv: str, folder: Path, extras: list[str], more: list[str], seeds: list[str]) -> list[str]:
    """The versions of cai with these extras and what `more` asks for; `folder` holds the project file and overrides."""
    out, asked = folder / "out.txt", folder / "more.in"
    out.write_text("\n".join(seeds) + "\n")
    asked.write_text("\n".join(more) + "\n")
    command = [
        uv,
        "pip",
        "compile",
        "-q",
        "--universal",
        "--python-version",
        PYTHON,
        "--no-header",
        "--no-annotate",
    ]
    command += ["--no-emit-index-url", "--no-emit-find-links", "-o", str(out), str(folder / "pyproject.toml")]
    command += [str(asked), *(word for extra in extras for word in ("--extra", extra))]
    if (
        VLLM_CPU in more
    ):  # it asks for the CPU build of torch, which few indexes have; that one is free in its triton
        (folder / "override.in").write_text(f"torch=={TORCH}\ntriton\n")
        command += ["--override", str(folder / "override.in")]
    subprocess.run(command, check=True, env=uv_environment(Path(sys.executable)))
    return tidy(out.read_text().splitlines())


def main() -> None:
    """Write both files, and the page."""
    parser = argparse.ArgumentParser(prog="python -m cai.constraints")
    parser.add_argument(
        "--upgrade", action="store_true", help="the newest versions, not those installed here"
    )
    upgrade = parser.parse_args().upgrade
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    extras = list(project["optional-dependencies"])
    where = [
        f"sys_platform == 'linux' and platform_machine == '{machine}' and python_full_version < '3.14'"
        for machine in MACHINES
    ]
    seeds = [] if upgrade else installed()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = [sys.executable, "-m", "pip", "install", "-qq", "--target", str(folder / "uv"), "uv"]
        subprocess.run(run, check=True)
        uv = str(folder / "uv" / "bin" / "uv")
        (folder / "pyproject.toml").write_text(f"{text}\n[tool.uv]\nenvironments = {json.dumps(where)}\n")
        gpu = resolved(uv, folder, extras, ["uv"], seeds)
        shared = [one for one in gpu if one.startswith(MISMATCHED)]  # their versions belong to that of torch
        cpu = resolved(uv, folder, [one for one in extras if one != "vllm"], [VLLM_CPU, "uv", *shared], seeds)
    cpu = [one for one in cpu if not one.startswith(CUDA)]
    about = {"day": datetime.datetime.now(datetime.UTC).date(), "requires": project["requires-python"]}
    about |= {"machines": ", ".join(MACHINES), "python": platform.python_version()}
    for gpu_machine, lines, what in ((False, cpu, "Without a GPU."), (True, gpu, "With an NVIDIA GPU.")):
        head = HEADER.format(what=what, **about)
        constraints(gpu_machine).write_text(head + "\n".join(lines) + "\n")
        sys.stdout.write(f"{constraints(gpu_machine).relative_to(ROOT)}: {len(lines)} constraints\n")
    PAGE.write_text(page())
    sys.stdout.write(f"{PAGE.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
