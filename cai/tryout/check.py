"""A constitution's own tests, and labelled pairs: does the judge prefer the better reply under its principles?

The judge is asked exactly as in a run and as in a qualification, in both orders; what an earlier check has asked
is answered from the journal of the scratch folder.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cai.config import RunConfig
from cai.constitution import Constitution
from cai.constitution.principle import KEBAB
from cai.errors import ConfigError
from cai.judge.passes import PrinciplePasses, passes, together
from cai.judges.labelled import read_pairs, tests_of
from cai.judges.qualification import kind_of, to_measure
from cai.judges.stages import qualify_stage
from cai.pipeline import job_of, run_job
from cai.preflight import check_judge_models
from cai.rows import Drop, LabelledPair, Recorded, Row
from cai.serving import Models
from cai.shard import ShardReport, shard_paths
from cai.stages.measure import principles_of
from cai.store import read_rows, write_rows
from cai.tryout.scratch import freeze, only
from cai.tryout.spent import Spent, spent


class Wanted(NamedTuple):
    """What is to be checked: a constitution's tests, those of one principle, with or without labelled pairs."""

    file: Path
    pairs: Path | None = None
    principle: str | None = None


class Checks(Row):
    """The tests of one constitution. `rate`: share that passed, None without tests.

    `untested`: ids of principles without a test. `below`: principles whose rate is under `min_pass_rate`; where
    there are none, and something was tested, the constitution `held`.
    """

    file: str
    name: str
    version: str
    judge: str
    principles: tuple[PrinciplePasses, ...]
    untested: tuple[str, ...]
    tests: int
    passed: int
    rate: float | None
    skipped: int
    min_pass_rate: float
    below: tuple[str, ...]
    held: bool
    calls: Spent
    seconds: float


async def run_checks(
    config: RunConfig, wanted: Wanted, constitution: Constitution, min_pass_rate: float, models: Models
) -> Checks:
    """Ask the judges of `config`, which is of the scratch folder that the caller holds. Raises what a run raises."""
    started = time.monotonic()
    if wanted.principle is not None:
        constitution = only(constitution, wanted.principle, str(wanted.file))
    pairs = list(_pairs(config, constitution, wanted))
    scored = [pair for pair in pairs if pair.gold in ("A", "B")]
    rows, drops, reports = await _ask(config, constitution, scored, models) if scored else ([], {}, [])
    lost = [(pair, drops[pair.id]) for pair in scored if pair.id in drops]
    skipped = [(pair, "") for pair in pairs if pair.gold not in ("A", "B")]
    found = passes(rows, [*lost, *skipped])
    below = tuple(one.principle for one in found if one.rate is not None and one.rate < min_pass_rate)
    tests, passed = sum(one.tests for one in found), sum(one.passed for one in found)
    return Checks(
        file=str(wanted.file),
        name=constitution.name,
        version=constitution.version,
        judge=" + ".join(dict.fromkeys(row.judge for row in rows)) or " + ".join(config.judge.judges),
        principles=tuple(found),
        untested=tuple(one.id for one in constitution.principles if not one.tests),
        tests=tests,
        passed=passed,
        rate=passed / tests if tests else None,
        skipped=sum(one.skipped for one in found),
        min_pass_rate=min_pass_rate,
        below=below,
        held=tests > 0 and not below,
        calls=spent(reports),
        seconds=round(time.monotonic() - started, 3),
    )


async def _ask(
    config: RunConfig, constitution: Constitution, pairs: list[LabelledPair], models: Models
) -> tuple[list[Recorded], dict[str, str], list[ShardReport]]:
    """What the judges together say, by which reason pairs without a verdict were lost, and the reports."""
    version, labelled = config.root / "tested.yaml", config.root / "tests.jsonl"
    freeze(constitution, version)
    write_rows(labelled, pairs)
    judge = to_measure(config).judge.model_copy(update={"labelled": str(labelled)})
    config = config.model_copy(update={"constitution": str(version), "judge": judge})
    check_judge_models(config)
    members: list[list[Recorded]] = []
    reasons: dict[str, str] = {}
    reports: list[ShardReport] = []
    for name in judge.judges:
        stage = qualify_stage(name)
        model = await models.model(name)
        reports.append(await run_job(config, job_of(config, stage, 0, model.identity), model))
        paths = shard_paths(config.root, stage, 0)
        members.append(list(read_rows(paths.rows, Recorded)))
        reasons |= {drop.id: drop.reason for drop in read_rows(paths.drops, Drop)}
    rows = together(members, kind_of(config), judge.threshold)
    heard = {row.id for row in rows}
    return rows, {name: reason for name, reason in reasons.items() if name not in heard}, reports


def _pairs(config: RunConfig, constitution: Constitution, wanted: Wanted) -> Iterator[LabelledPair]:
    """The tests, then the labelled pairs under the principle that each names or, where it draws one alone, draws."""
    tests = tests_of(constitution)
    yield from tests
    if wanted.pairs is None:
        return
    taken = {pair.id for pair in tests}
    ids = {one.id for one in constitution.principles}
    by_statement = {one.statement: one.id for one in constitution.principles}
    for number, pair in read_pairs(wanted.pairs, LabelledPair):
        where = f"{wanted.pairs}:{number}"
        if pair.id in taken:
            raise ConfigError(f"{where}: id {pair.id!r} is that of a test in {wanted.file}; rename the pair")
        name = by_statement.get(pair.principle or "", pair.principle)
        if name is None and config.judge.principles == 1:
            drawn = principles_of(pair, constitution, seed=config.seed, k=1)
            name = drawn[0].id if drawn else None
        if name is not None and name not in ids:
            if wanted.principle is not None:
                continue  # it is about another principle than the one wanted
            if re.fullmatch(KEBAB, name):
                raise ConfigError(
                    f"{where}: principle {name!r} is not in {wanted.file}; give an id of it, or a statement"
                )
        yield pair.model_copy(update={"principle": name})
