"""What can be seen on this machine: Python, packages and their builds, GPUs, weights, disk."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from cai.config import RunConfig, SourceConfig
from cai.doctor.finding import Finding, asked_models, needs_engine
from cai.doctor.gpu import graphics, seen_by_torch
from cai.doctor.stated import INSTALL, Stated, installed, stated, unmet
from cai.install import VLLM_CPU
from cai.models.weights import is_weights
from cai.plan.capacity import disk_a_prompt
from cai.runfolder.hold import FREE_BYTES
from cai.train.findings import gigabytes

USED = {
    "train": "trainings",
    "vllm": "models that the run serves itself",
    "ray": "section ray",
    "audit": "cai audit",
}
BYTES_A_PROMPT = 42_900  # measured; docs/capacity.md
NO_GPU = "on CPU vLLM and TRL work too, at a speed for small models"


def python() -> list[Finding]:
    """The interpreter, against `requires-python`."""
    wanted, version = stated().python, platform.python_version()
    if SpecifierSet(wanted).contains(version):
        return [Finding(area="python", what="Python", found=version, state="ok")]
    fix = f"make the environment with a Python {wanted}"
    return [Finding(area="python", what="Python", found=version, state="missing", fix=fix)]


def packages(config: RunConfig | None) -> list[Finding]:
    """Installed packages against the stated ones: the base's always, an extra's where the config uses it."""
    known = stated()
    found = [_packages(known, None, True)]
    for extra in USED.keys() - {"vllm"} if config is None else _extras(config):
        found.append(_packages(known, extra, config is not None))
    return sorted(found, key=lambda finding: (finding.what != "cai", finding.what))


def _extras(config: RunConfig) -> set[str]:
    measures = config.evaluate is not None and config.evaluate.divergence
    used = {"train"} if config.trained or measures else set()
    return used | ({"ray"} if config.ray else set())


def _packages(known: Stated, extra: str | None, needed: bool) -> Finding:
    name = "cai" if extra is None else f"cai[{extra}]"
    wanted = known.base if extra is None else known.extras.get(extra, ())
    wrong = unmet(wanted)
    if not wrong:
        return Finding(area="package", what=name, found=f"{len(wanted)} packages as stated", state="ok")
    for_what = f" (for {USED[extra]})" if extra and not needed else ""
    return Finding(
        area="package",
        what=name,
        found=", ".join(wrong),
        state="missing" if needed else "note",
        fix=INSTALL.format(name) + for_what,
    )


def engine(config: RunConfig | None) -> list[Finding]:
    """vLLM, and which build of it: a GPU is of no use to the one for CPU."""
    needed = config is not None and needs_engine(config)
    if config is not None and not needed:
        return []
    cpu = Requirement(VLLM_CPU)
    build = next((name for name in ("vllm", cpu.name) if installed(name)), None)
    if build is None:
        return [
            Finding(
                area="engine", what="vLLM", found="not installed", state="missing" if needed else "note",
                fix=f"{INSTALL.format('cai[vllm]')} (for {USED['vllm']})",
            )
        ]  # fmt: skip
    found = f"{build} {installed(build)}, the build for {'CPU' if build == cpu.name else 'GPU'}"
    if build == cpu.name and graphics():
        fix = f"{INSTALL.format('cai[vllm]')} again: there is a GPU now"
        return [Finding(area="engine", what="vLLM", found=found, state="note", fix=fix)]
    wanted = [cpu] if build == cpu.name else [Requirement(one) for one in stated().extras.get("vllm", ())]
    wrong = unmet(map(str, wanted))
    state, fix = ("missing" if needed else "note", INSTALL.format("cai[vllm]")) if wrong else ("ok", "")
    return [
        Finding.model_validate({"area": "engine", "what": "vLLM", "found": found, "state": state, "fix": fix})
    ]


def gpus(config: RunConfig | None) -> list[Finding]:
    """Graphics cards with memory and driver, and whether torch can use them."""
    if config is not None and not (needs_engine(config) or config.trained):
        return []
    found = graphics()
    if not found:
        return [Finding(area="gpu", what="GPU", found="no NVIDIA GPU answers", state="note", fix=NO_GPU)]
    seen = [Finding(area="gpu", what=f"GPU {card.number}", found=card.told, state="ok") for card in found]
    problem = seen_by_torch()
    state, fix = (
        ("note" if config is None else "missing", INSTALL.format("cai[train]")) if problem else ("ok", "")
    )
    what = {"area": "gpu", "what": "torch", "found": problem or "uses the GPU", "state": state, "fix": fix}
    return [*seen, Finding.model_validate(what)]


def weights(config: RunConfig) -> list[Finding]:
    """Models that the run serves by a name on the hub: are they here already?"""
    from huggingface_hub import try_to_load_from_cache

    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    found = []
    for name, model in asked_models(config).items():
        if model.managed is None or is_weights(model.model) or Path(model.model).is_absolute():
            continue
        try:
            here = isinstance(try_to_load_from_cache(model.model, "config.json"), str)
        except ValueError:  # no name that a hub could have
            continue
        what = f"models.{name}: {model.model}"
        if here:
            found.append(Finding(area="weights", what=what, found="in the cache of the hub", state="ok"))
            continue
        first = ", with HF_HUB_OFFLINE unset" if offline else ", or the first start does it"
        found.append(
            Finding(
                area="weights", what=what, found="not here yet", state="missing" if offline else "note",
                fix=f"hf download {model.model}{first}",
            )
        )  # fmt: skip
    return found


def disk(config: RunConfig | None) -> list[Finding]:
    """Free space where runs are kept, against what the data of this one will take; weights are not counted."""
    place = Path(config.outputs if config else "outputs").absolute()
    while not place.exists():
        place = place.parent
    free, need, why = shutil.disk_usage(place).free, FREE_BYTES, "for any run"
    if config is not None and (prompts := _prompts(config)) is not None:
        each = disk_a_prompt(config.root) or BYTES_A_PROMPT
        need, why = round(need + prompts * each), f"for {prompts:,} prompts"
    found = f"{gigabytes(free)} free, about {gigabytes(need)} needed {why}"
    if free >= need:
        return [Finding(area="disk", what=str(place), found=found, state="ok")]
    fix = "make room, or set outputs to a folder on another disk"
    return [Finding(area="disk", what=str(place), found=found, state="missing", fix=fix)]


def _prompts(config: RunConfig) -> int | None:
    """About how many prompts the config reads; None where only reading them would tell."""
    counts = [_rows(source) for source in config.prompts]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _rows(source: SourceConfig) -> int | None:
    if source.limit is not None:
        return source.limit
    path = Path(source.path or "")
    if source.path is None or path.suffix not in (".jsonl", ".txt", ".csv") or not path.is_file():
        return None
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
