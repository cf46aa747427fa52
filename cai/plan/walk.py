"""The plan of a run: what it would ask if it were started now, stage by stage, and what the journal already holds.

Stages are rehearsed in a scratch folder that is gone afterwards; the run's own folder is only read, also while
the run is going on. Where a stage needs replies that do not exist yet, its rows are unknown and its calls a range.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from cai.config import RunConfig
from cai.models import open_model
from cai.models.base import Usage
from cai.pipeline import job_of, read_stage, role_of, shards_of
from cai.plan.assume import assumed
from cai.plan.batches import batches_in_a_row, cost_and_saving
from cai.plan.calls import calls_of_unknown, kinds_of
from cai.plan.rates import PerCall, Rates, rates_of, tokens_a_call
from cai.plan.rehearse import Tally, rehearse
from cai.plan.rows import Calls, StagePlan
from cai.preflight import NOWHERE
from cai.rounds import sampled_model
from cai.rows import Drop, Prompt
from cai.shard import shard_paths
from cai.store import read_rows

NO_TOKENS = PerCall(0.0, 0.0)


class Expected(NamedTuple):
    """Rows that may come out of replies yet to be made: how many at most, and how many to expect."""

    most: int
    likely: float


NOBODY = Expected(0, 0.0)


class Walk:
    """One plan in the making. `config`: the run's; `scratch`: the same in the folder of the rehearsal."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self.config, self.root = config, config.root
        self.scratch = config.model_copy(update={"outputs": str(folder)})
        self.rates: Rates = rates_of(self.root)
        self.done: dict[str, list[StagePlan]] = {}
        self.tentative: dict[str, bool] = {}
        self._per_call: dict[str, PerCall] = {}

    async def stage(
        self, name: str, more: Expected = NOBODY, skip: Collection[str] = (), policy: RunConfig | None = None
    ) -> None:
        """Rehearse a stage over all its shards.

        `more`: rows that it may get on top. `skip`: ids of rows that count among those. `policy`: the scratch config
        with another policy.
        """
        config, tally = policy or self.scratch, Tally()
        role = role_of(config, name)
        model = config.models[role]
        client = open_model(role, model, endpoint=model.endpoint or NOWHERE)
        try:
            for shard in range(shards_of(config, name)):
                job = job_of(config, name, shard, client.identity)
                await rehearse(
                    config, self.root, job, client.identity, self.rates, tally, skip, self.tentative
                )
        finally:
            await client.close()
        known = tokens_a_call(self.root, name) or tally.tokens()
        if known is None and (found := await assumed(config, job, read_stage(config, "prompts", Prompt))):
            known = found
        self.tentative |= tally.tentative
        self.add(name, role, tally, more, known or NO_TOKENS)

    def add_unknown(self, name: str, rows: int, like: str) -> None:
        """Keep a stage of which no row is known yet. `like`: the stage whose calls its own are like."""
        config = self.config
        role = (
            config.policy.model
            if sampled_model(name) is not None or name.startswith("evaluate-")
            else role_of(config, name)
        )
        self.add(name, role, Tally(), Expected(rows, float(rows)), self._per_call.get(like, NO_TOKENS))

    def add(self, name: str, model: str, tally: Tally, more: Expected, tokens: PerCall) -> None:
        """Keep what a stage came to, with what its unknown rows add."""
        unknown = calls_of_unknown(self.config, name, more.likely, more.most, self.rates) if more.most else {}
        asked = self.config.models.get(model) or self.config.models[self.config.policy.model]
        plans = []
        for kind in kinds_of(name):
            calls = tally.calls.get(kind, Calls()) + unknown.get(kind, Calls())
            usage = Usage(
                prompt_tokens=round(calls.expected * tokens.prompt),
                completion_tokens=round(calls.expected * tokens.completion),
            )
            dollars, saving = cost_and_saving(asked, usage)
            plans.append(
                StagePlan(
                    stage=name, kind=kind, model=model, rows=tally.rows, unknown=more.most,
                    asked=tuple(tally.asked), held=tally.held, calls=calls,
                    prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens,
                    cost=dollars, mode=asked.mode, batch_saving=saving,
                    batches=batches_in_a_row(self.config, asked, name, kind, calls),
                )
            )  # fmt: skip
        self.done[name] = plans
        self._per_call[name] = tokens

    def asks(self, *names: str) -> bool:
        """True where one of these stages has, or may have, a call to make."""
        return any(plan.calls.high > 0 for name in names for plan in self.done.get(name, ()))

    def unasked(self, stage: str) -> Iterator[Drop]:
        """Rows of a rehearsed stage whose reply is missing."""
        for shard in range(shards_of(self.config, stage)):
            drops = read_rows(shard_paths(self.scratch.root, stage, shard).drops, Drop)
            yield from (drop for drop in drops if drop.reason == "not_asked")
