"""A labelled pair → the judge's verdicts on it, in the format of a verdict replay file.

The judge is asked exactly as in a run: same templates, same method, both orders. A pair that names a principle
is judged under that one; the others draw theirs as a comparison of a run does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from cai.config import JudgeConfig
from cai.constitution import Constitution, Principle, draw
from cai.judge.label import heard_in_both_orders, mean_orders
from cai.prompts import Templates
from cai.rows import Drop, LabelledPair, Recorded, Verdict
from cai.shard.calls import Ask
from cai.stages.verdict import ask_verdicts


def measure_step(
    judge: JudgeConfig,
    name: str,
    identity: str,
    constitution: Constitution,
    templates: Templates,
    *,
    seed: int,
    stage: str,
) -> Callable[[LabelledPair, Ask], Awaitable[Sequence[Recorded | Drop]]]:
    """The step that records what the judge `name` says about a labelled pair. `identity`: what the record calls it."""

    async def step(row: LabelledPair, ask: Ask) -> Sequence[Recorded | Drop]:
        if row.a == row.b:
            return [Drop(id=row.id, stage=stage, reason="identical")]
        principles = principles_of(row, constitution, seed=seed, k=judge.principles)
        if not principles:
            return [Drop(id=row.id, stage=stage, reason="no_principle", detail=f"tags {row.tags}")]
        verdicts = await ask_verdicts(
            judge,
            name,
            templates,
            row_id=row.id,
            turns=row.messages,
            a=row.a,
            b=row.b,
            principles=principles,
            seed=seed,
            ask=ask,
        )
        ab, ba = recorded_orders(verdicts, principles)
        pair = row.model_dump(include=set(LabelledPair.model_fields))
        return [Recorded(**pair, judge=identity, p_a_ab=ab, p_a_ba=ba)]

    return step


def principles_of(row: LabelledPair, constitution: Constitution, *, seed: int, k: int) -> list[Principle]:
    """The principle that the pair names (by id, or else by its statement), or the `k` that it draws."""
    if row.principle is None:
        return draw(constitution, seed=seed, row_id=row.id, use="judge", tags=row.tags, k=k)
    known = {principle.id: principle for principle in constitution.principles}
    return [known.get(row.principle) or Principle(id="labelled", statement=row.principle)]


def recorded_orders(
    verdicts: Sequence[Verdict], principles: Sequence[Principle]
) -> tuple[float | None, float | None]:
    """P(a better) in each order, over the principles that were read in both; None for an order that was not read."""
    heard = heard_in_both_orders(verdicts, principles)
    if heard:
        return mean_orders(heard)
    if len(principles) > 1:
        return None, None
    found = {verdict.order: verdict.p for verdict in verdicts}
    return found.get("ab"), found.get("ba")
