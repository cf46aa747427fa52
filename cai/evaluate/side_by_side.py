"""What the comparisons of two models came to: who won how often, and how far the judge can be believed in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from cai.config import RunConfig
from cai.evaluate.compare import compare_stage, pair_name
from cai.evaluate.win_rate import (
    EqualLength,
    Outcome,
    WinRate,
    equal_length,
    longer_wins,
    sign_test,
    win_rate,
)
from cai.models.base import derive_seed
from cai.pipeline import read_stage, rows_file
from cai.report.filter_rows import Position
from cai.report.shift import position_of
from cai.report.tally import tally
from cai.rows import Drop, Judgment, Prompt, Row
from cai.runfolder.made import made, made_of, note_made
from cai.shard import shard_paths
from cai.store import read_rows


class SideBySide(Row):
    """What `judge` made of the replies of `model` beside those of `opponent`, both to the same held-out prompts.

    `win_rate`: of the model. `p_value`: of the exact sign test of wins against losses; None without any.
    `equal_length`: the win rate with the effect of length taken out. `tags`: the win rate by the prompts' tags.
    Ties are `identical` replies, for which nobody is asked, `inconsistent` verdicts, whose sides change with the
    order, and even ones. `longer_wins`: share of the decided comparisons that the longer reply won. `position`: of
    single verdicts. `unscored`: held-out prompts without a comparison that counts, by reason.
    """

    model: str
    opponent: str
    judge: str
    win_rate: WinRate
    p_value: float | None
    equal_length: EqualLength
    tags: dict[str, WinRate]
    identical: int
    inconsistent: int
    longer_wins: float | None
    position: Position
    unscored: dict[str, int]


def side_by_side(config: RunConfig) -> dict[str, SideBySide]:
    """What each compared pair of models came to, by the name of the pair; figures are kept while nothing changes."""
    found: dict[str, SideBySide] = {}
    for models in config.compared:
        stages = ["held-out", *(f"evaluate-{model}" for model in models), compare_stage(models)]
        inputs = made_of(config.root, stages, models, config.seed, config.evaluation_judge)
        known = made(config.root, compare_stage(models), inputs)
        row = _pair(config, models) if known is None else SideBySide.model_validate(known)
        if known is None:
            note_made(config.root, compare_stage(models), inputs, [], row.model_dump(mode="json"))
        found[pair_name(models)] = row
    return found


def score(judgment: Judgment) -> float | None:
    """1 where candidate a is better, 0 where b is, 0.5 for a tie; None where the judge could not be read.

    Verdicts whose side changes with the order are a tie, however sure they are.
    """
    if judgment.p is None:
        return None
    if judgment.state == "inconsistent" or judgment.p == 0.5:
        return 0.5
    return float(judgment.p > 0.5)


def _pair(config: RunConfig, models: tuple[str, str]) -> SideBySide:
    seed = derive_seed(config.seed, "", "side_by_side")
    judgments = list(read_stage(config, compare_stage(models), Judgment))
    outcomes: list[Outcome] = []
    tags: dict[str, list[Outcome]] = {}
    for row in judgments:
        if (scored := score(row)) is None:
            continue
        outcomes.append(Outcome(scored, len(row.a.text) - len(row.b.text)))
        for tag in row.prompt.tags:
            tags.setdefault(tag, []).append(outcomes[-1])
    won = win_rate(outcomes, seed)
    return SideBySide(
        model=models[0],
        opponent=models[1],
        judge=config.evaluation_judge,
        win_rate=won,
        p_value=sign_test(won.wins, won.losses),
        equal_length=equal_length(outcomes, seed),
        tags={tag: win_rate(some, seed) for tag, some in sorted(tags.items())},
        identical=sum(not row.verdicts for row in judgments),
        inconsistent=sum(row.state == "inconsistent" for row in judgments),
        longer_wins=longer_wins(outcomes),
        position=position_of(tally(judgments)),
        unscored=dict(sorted(Counter(_unscored(config, models, judgments)).items())),
    )


def _unscored(config: RunConfig, models: tuple[str, str], judgments: list[Judgment]) -> Iterator[str]:
    """Why held-out prompts are in no rate, once for each: a model has no reply, or the judge gave no verdict."""
    lost = {row.id: row.state for row in judgments if row.p is None}
    yield from lost.values()
    compared = {row.prompt.id for row in judgments}
    reasons: dict[str, str] = {}
    for stage in (compare_stage(models), *(f"evaluate-{model}" for model in models)):
        for drop in read_rows(shard_paths(config.root, stage, 0).drops, Drop):
            reasons.setdefault(drop.id.rpartition("/")[0], drop.reason)
    held = read_rows(rows_file(config.root, "held-out", 0), Prompt)
    yield from (reasons[prompt.id] for prompt in held if prompt.id not in compared)
