"""What was said before a principle was edited: the best guess at what will be said when it is asked again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from cai.config import RunConfig
from cai.constitution import Constitution, draw
from cai.errors import ParseError
from cai.journal import Journal
from cai.models.base import Completion, Request
from cai.parse import parse_critique
from cai.plan.calls import place
from cai.rows import Reply, Revision, RevisionRound
from cai.shard import shard_paths
from cai.store import read_rows

Said = Mapping[str, RevisionRound]  # by principle
StandIn = Callable[[Request], Completion | None]


def said_before(root: Path, shard: int) -> dict[str, Said]:
    """The rounds that a run has published for a shard, by reply and principle; empty where it has none."""
    rows = shard_paths(root, "revise", shard).rows
    if not rows.is_file():
        return {}
    return {row.reply.id: {done.principle: done for done in row.rounds} for row in read_rows(rows, Revision)}


def stand_in(
    config: RunConfig, constitution: Constitution, journal: Journal, reply: Reply, said: Said
) -> StandIn:
    """Answers a critique or revision request with what the same principle got for the same reply before.

    The function returns None where that principle was not drawn for the reply, or ended otherwise.
    """
    drawn = draw(
        constitution, seed=config.seed, row_id=reply.id, use="revise", tags=reply.prompt.tags,
        k=config.critic.rounds,
    )  # fmt: skip

    def answer(request: Request) -> Completion | None:
        kind, round_ = place(config, reply.id, request)
        before = said.get(drawn[round_].id)
        if before is None or (kind == "revision" and before.revision is None):
            return None
        if kind == "revision":
            return journal.get(before.calls[-1])
        found = (journal.get(call) for call in before.calls)
        return next((one for one in found if one is not None and _critique(one) == before.critique), None)

    return answer


def _critique(completion: Completion) -> str | None:
    try:
        return parse_critique(completion.text)[0]
    except ParseError:
        return None
