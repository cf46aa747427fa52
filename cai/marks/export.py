"""Marks as labelled pairs: a verdict replay file, which `cai judge replay`, `qualify` and `calibrate` take as it is.

A row's gold is what its authors say: `A`, `B` or `tie`; null where the row is unusable or they disagree, so that
it is counted as unscored and never as an error of the judge. Marks on texts that the run no longer has are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cai.config import RunConfig
from cai.constitution import Constitution
from cai.errors import CaiError, ConfigError, StoreError
from cai.given import read_given
from cai.judges.calibration import judge_identity
from cai.judges.stages import qualify_stage
from cai.marks.mark import Mark, pair_digest, said_of
from cai.marks.sample import places_of, read_place
from cai.preflight import NOWHERE
from cai.prompts import load_templates
from cai.rows import Judgment, LabelledPair, Recorded
from cai.shard import shard_paths
from cai.stages.measure import recorded_orders
from cai.store import decode, explain, guard, read_rows


class Exported(NamedTuple):
    """What is exported. `stale`: marked rows left out. `judge`: whose verdicts go along, None for pairs alone."""

    rows: list[LabelledPair]
    stale: int
    judge: str | None


def exported(
    run: Path, config: RunConfig, constitution: Constitution, marks: Sequence[Mark], judge: str | None = None
) -> Exported:
    """A line for each marked row, in the order of stages and ids. `judge`: name of one of the run's judges.

    Raises ConfigError where nothing is marked or the run has no such judge, StoreError where a file cannot be used.
    """
    judge = _judge(config, judge)
    said = said_of(marks)
    places = places_of(run, said.keys())
    rows: dict[str, LabelledPair] = {}
    name = _identity(run, config, judge) if judge else None
    for key, place in sorted(places.items()):
        row = read_place(place)
        current = [mark for mark in said[key].marks if mark.pair == pair_digest(row)]
        if not current:
            continue
        if row.id in rows:
            raise ConfigError(f"{run}: two stages have a marked row {row.id!r}; a file can hold one of them")
        pair = _pair(row, said_of(current)[key].gold)
        rows[row.id] = _recorded(pair, row, constitution, judge, name) if judge and name else pair
    if not rows:
        raise ConfigError(f"{run}: no row that it has is marked; mark some with `cai view {run}`")
    return Exported(list(rows.values()), len(said) - len(rows), name)


def run_constitution(run: Path) -> Constitution:
    """The constitution that a run was made with. Raises StoreError where it cannot be read."""
    path = run / "constitution.json"
    with guard(path):
        data = read_given(path)
    try:
        return decode(data, Constitution)
    except ValueError as error:
        raise StoreError(f"{path}: not a constitution ({explain(error)}); run again") from error


def _judge(config: RunConfig, judge: str | None) -> str | None:
    """The judge whose verdicts go along: the one named, the run's only one, or none."""
    if judge is not None and judge not in config.judge.judges:
        raise ConfigError(
            f"--judge {judge}: not a judge of this run; it has {', '.join(config.judge.judges)}"
        )
    return judge or config.judge.model


def _pair(row: Judgment, gold: str | None) -> LabelledPair:
    """A judged row as a labelled pair. It names no principle: by its id and tags it draws those of the run again."""
    turns = row.prompt.messages
    alone = len(turns) == 1 and turns[0].role == "user"
    return LabelledPair.model_validate(
        {
            "id": row.id,
            "prompt": turns[0].content if alone else turns,
            "a": row.a.text,
            "b": row.b.text,
            "gold": gold,
            "tags": row.prompt.tags,
        }
    )


def _recorded(
    pair: LabelledPair, row: Judgment, constitution: Constitution, judge: str, name: str
) -> Recorded:
    own = [verdict for verdict in row.verdicts if verdict.judge == judge]
    met = {verdict.principle for verdict in own}
    ab, ba = recorded_orders(own, [one for one in constitution.principles if one.id in met])
    return Recorded(**pair.model_dump(), judge=name, p_a_ab=ab, p_a_ba=ba)


def _identity(run: Path, config: RunConfig, judge: str) -> str:
    """What a qualification calls the judge, so that a calibration made from the file fits the run; else its name."""
    measured = shard_paths(run, qualify_stage(judge), 0).rows
    if measured.is_file():
        for row in read_rows(measured, Recorded):
            return row.judge
    try:
        return judge_identity(_model_identity(config, judge), config.judge, load_templates(config.templates))
    except CaiError:  # its weights or templates are not here
        return judge


def _model_identity(config: RunConfig, judge: str) -> str:
    import asyncio

    from cai.models import open_model

    async def ask() -> str:
        model = config.models[judge]
        client = open_model(judge, model, endpoint=model.endpoint or NOWHERE)
        await client.close()
        return client.identity

    return asyncio.run(ask())
