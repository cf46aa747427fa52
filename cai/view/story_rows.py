"""All that a run holds about one prompt, in the order in which it came about."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

from cai.errors import ConfigError
from cai.report.words import Piece, word_diff
from cai.rows import (
    Candidate,
    Demonstration,
    Drop,
    Judgment,
    Message,
    Pair,
    Prompt,
    Reply,
    Revision,
    RevisionRound,
    Row,
    Verdict,
)
from cai.view.calls import Calls
from cai.view.filters import FIELDS
from cai.view.index import Index
from cai.view.index_rows import Table, utf8
from cai.view.query import Found, select
from cai.view.read import read_row
from cai.view.state import View

MOST = 400  # rows of one table that a story shows
WORDS = (
    3000  # of a text, above which its two versions are shown whole: the comparison takes the square of them
)
AnyRow = TypeVar("AnyRow", bound=Row)


class Kept(NamedTuple, Generic[AnyRow]):
    """A row with where it lies."""

    row: AnyRow
    ref: Found


class Step(NamedTuple):
    """A round of critique and revision: the text that it began with, and what became of it, word by word."""

    done: RevisionRound
    before: str
    diff: list[Piece] | None


class Asked(NamedTuple):
    """A judge's verdicts under one principle in both orders; None: not asked in this one."""

    judge: str
    principle: str
    ab: Verdict | None
    ba: Verdict | None
    probs: dict[str, dict[str, float] | None]


class Story(NamedTuple):
    """One prompt. `turns`: its conversation, None where the run has (now) no row that tells it."""

    id: str
    turns: tuple[Message, ...] | None
    tags: tuple[str, ...]
    source: str
    replies: list[Kept[Reply]]
    revisions: dict[str, Kept[Revision]]
    judgments: list[Kept[Judgment]]
    pairs: dict[str, list[Kept[Pair]]]
    demonstrations: list[Kept[Demonstration]]
    drops: list[Kept[Drop]]
    more: int
    calls: Calls

    @property
    def all_pairs(self) -> list[Kept[Pair]]:
        """The preference pairs, also those of self-play, which nobody judged."""
        return [kept for pairs in self.pairs.values() for kept in pairs]


def story_of(view: View, index: Index, prompt: str) -> Story:
    """Everything about a prompt. Raises ConfigError where the run has nothing about it."""
    names = [prompt, *(f"{prompt}@{number}" for number in range(2, view.config.rounds + 1))]
    found: dict[Table, list[Kept[Any]]] = {}
    more = 0
    for table in FIELDS:
        if table != "verdicts":
            marks = ", ".join("?" for _ in names)
            refs = select(
                index, table, [f"prompt IN ({marks})"], names, f"ORDER BY stage, id LIMIT {MOST + 1}"
            )
            more += len(refs) > MOST
            found[table] = [Kept(read_row(index, table, ref), ref) for ref in refs[:MOST]]
        else:
            found[table] = []
    if not any(found.values()):
        raise ConfigError(f"the run has nothing about a prompt {prompt!r}; open one from a table")
    return _told(index, prompt, found, more)


def _told(index: Index, prompt: str, found: dict[Table, list[Kept[Any]]], more: int) -> Story:
    replies: list[Kept[Reply]] = found["replies"]
    revisions = {kept.row.reply.id: kept for kept in found["revisions"]}
    known = {kept.row.id for kept in replies}
    replies = [
        *replies,
        *(Kept(kept.row.reply, kept.ref) for kept in revisions.values() if kept.row.reply.id not in known),
    ]
    prompts: list[Prompt] = [kept.row for kept in found["prompts"]]
    prompts += [kept.row.prompt for kept in (*replies, *found["judgments"])]
    pairs: dict[str, list[Kept[Pair]]] = {}
    for pair in found["pairs"]:
        pairs.setdefault(pair.row.lineage, []).append(pair)
    first = prompts[0] if prompts else None
    other = next((kept.row for kept in (*found["pairs"], *found["demonstrations"])), None)
    return Story(
        id=prompt,
        turns=first.messages if first else other.prompt if other else None,
        tags=first.tags if first else other.tags if other else (),
        source=first.source if first else "",
        replies=replies,
        revisions=revisions,
        judgments=found["judgments"],
        pairs=pairs,
        demonstrations=found["demonstrations"],
        drops=found["drops"],
        more=more,
        calls=calls_behind(index, found),
    )


def calls_behind(index: Index, found: dict[Table, list[Kept[Any]]]) -> Calls:
    """The journal's replies behind the rows of a story."""
    calls = Calls(index.run)
    for kept in found["replies"]:
        calls.want(kept.ref.stage, kept.ref.shard, kept.row.calls)
    for kept in found["revisions"]:
        calls.want("generate", kept.ref.shard, kept.row.reply.calls)
        for done in kept.row.rounds:
            calls.want(kept.ref.stage, kept.ref.shard, done.calls)
    for kept in found["judgments"]:
        for verdict in kept.row.verdicts:
            calls.want(kept.ref.stage, kept.ref.shard, verdict.calls)
    calls.look_up()
    return calls


def steps_of(revision: Revision) -> list[Step]:
    """The rounds of a revision, each with the text that it began with."""
    text, steps = revision.reply.text, []
    for done in revision.rounds:
        changed = diff_of(text, done.revision) if done.revision is not None else None
        steps.append(Step(done, text, changed))
        text = text if done.revision is None else done.revision
    return steps


def diff_of(before: str, after: str) -> list[Piece]:
    """What changed, word by word; of very long texts one after the other."""
    if max(len(before.split()), len(after.split())) <= WORDS:
        return word_diff(before, after)
    return [Piece("deleted", "", before), Piece("inserted", "", after)]


def asked_of(judgment: Judgment, calls: Calls) -> list[Asked]:
    """The verdicts of a judgment, a judge's two orders together."""
    found: dict[tuple[str, str], dict[str, Verdict]] = {}
    for verdict in judgment.verdicts:
        found.setdefault((verdict.judge, verdict.principle), {})[verdict.order] = verdict
    asked = []
    for (judge, principle), orders in found.items():
        replies = [(order, calls.get(key)) for order, verdict in orders.items() for key in verdict.calls]
        probs = {order: reply.choice_probs for order, reply in replies if reply is not None}
        asked.append(Asked(judge, principle, orders.get("ab"), orders.get("ba"), probs))
    return asked


def better_of(judgment: Judgment) -> Candidate | None:
    """The side that a label calls better; None where there is no label."""
    if judgment.state != "labelled" or judgment.p is None:
        return None
    return judgment.a if judgment.p > 0.5 else judgment.b


def drops_of(story: Story, row_id: str) -> list[Drop]:
    """Why a row did not go on, stage by stage."""
    return [kept.row for kept in story.drops if utf8(kept.row.id) == utf8(row_id)]
