"""What one try is to show: which version beside which, on which prompts, whose replies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cai.config import RunConfig
from cai.config_file import validate_config
from cai.constitution import Constitution, load_constitution
from cai.errors import ConfigError
from cai.given import read_given
from cai.preflight import check_inputs
from cai.report.status import read_json
from cai.store import decode, explain
from cai.tryout.prompts import Drawn, choose, given_prompts, run_prompt, run_prompts, source_prompts
from cai.tryout.scratch import only, previous_version, reached


class Wanted(NamedTuple):
    """What the user asks to be shown; see `cai constitution try --help`. `row`: id of one prompt of `run`."""

    file: Path
    prompts: Sequence[str] = ()
    run: Path | None = None
    against: Path | None = None
    principle: str | None = None
    n: int = 3
    row: str | None = None


class Plan(NamedTuple):
    """What to try. `old`: the version beside `new`; None where there is none, or it is the same to a run.

    `origin`: where the old version comes from, in words. `changed`: ids of the principles that a run tells apart.
    """

    config: RunConfig
    new: Constitution
    old: Constitution | None
    origin: str | None
    changed: Sequence[str]
    drawn: Sequence[Drawn]


def run_config(run: Path) -> RunConfig:
    """The config that a run was started with. Raises ConfigError where `run` is not a run's folder."""
    data = read_json(run / "config.json")
    if data is None:
        raise ConfigError(f"--run {run}: not a run (no config.json); runs lie in outputs/<name>")
    return validate_config(data, str(run / "config.json"))


def plan_tryout(config: RunConfig, wanted: Wanted, new: Constitution) -> Plan:
    """What is to be tried of `new`. `config`: of the scratch folder, which the caller holds. Raises ConfigError."""
    old, origin = _old_version(config, wanted, new)
    if wanted.principle is not None:
        new = only(new, wanted.principle, str(wanted.file))
        if old is not None and any(one.id == wanted.principle for one in old.principles):
            old = only(old, wanted.principle, "")
        else:
            old, origin = None, None
    changed = reached(old, new) if old is not None else []
    if not changed:
        old = None
    versions = [version for version in (new, old) if version is not None]
    samples = any(
        one.id in changed and "revise" not in one.use for version in versions for one in version.principles
    )
    config = config.model_copy(
        update={
            "policy": config.policy.model_copy(update={"n": 2 if samples else 1}),
            "pairs": config.pairs.model_copy(
                update={"sources": ("samples", "revision") if samples else ("revision",)}
            ),
        }
    )
    check_inputs(config.model_copy(update={"prompts": ()}))
    if wanted.prompts:
        return Plan(config, new, old, origin, changed, given_prompts(wanted.prompts, new))
    if wanted.run is not None and wanted.row is not None:
        return Plan(config, new, old, origin, changed, [run_prompt(wanted.run, wanted.row)])
    drawn = run_prompts(wanted.run) if wanted.run is not None else source_prompts(config)
    targets = changed or [one.id for one in new.principles]
    return Plan(
        config, new, old, origin, changed, choose(config, drawn, versions, targets, wanted.n, samples)
    )


def _old_version(
    config: RunConfig, wanted: Wanted, new: Constitution
) -> tuple[Constitution | None, str | None]:
    """The version to compare with, and where it comes from."""
    last = previous_version(config.root, new)
    if wanted.against is not None:
        return load_constitution(wanted.against), str(wanted.against)
    if wanted.run is None:
        return last, "the version tried before" if last is not None else None
    path = wanted.run / "constitution.json"
    try:
        return decode(read_given(path), Constitution), f"the version of {wanted.run}"
    except OSError as error:
        raise ConfigError(
            f"--run {wanted.run}: {path.name} {error.strerror}; give --against a file"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path}: not a constitution ({explain(error)}); give --against a file") from error
