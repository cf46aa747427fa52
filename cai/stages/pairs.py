"""Judgments → preference pairs and SFT demonstrations. Pure: no model is asked, every loss has a reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cai.judge.label import margin
from cai.rows import Candidate, Demonstration, Drop, Judgment, JudgmentState, Message, Pair, Revision


def pairs(judgments: Iterable[Judgment], clamp: float | None = None) -> Iterator[Pair | Drop]:
    """One pair for each labelled judgment; other states are drops by that name, repeated texts `duplicate`.

    `clamp`: the largest p that a pair carries, its margin with it (Bai et al. 2022, section 4.1, trains on such
    labels, for a judge that reasons is too sure of itself); which pairs there are does not depend on it.
    """
    prompt_id = ""
    seen: set[tuple[str, str]] = set()
    for judgment in judgments:
        if judgment.prompt.id != prompt_id:
            prompt_id, seen = judgment.prompt.id, set()
        if judgment.state != "labelled" or judgment.p is None:
            yield Drop(id=judgment.id, stage="pairs", reason=judgment.state, detail=f"p {judgment.p}")
            continue
        pair = _pair(judgment, judgment.p, clamp)
        texts = (pair.chosen[0].content, pair.rejected[0].content)
        if texts in seen or texts[::-1] in seen:
            yield Drop(id=judgment.id, stage="pairs", reason="duplicate")
            continue
        seen.add(texts)
        yield pair


def _pair(judgment: Judgment, p: float, clamp: float | None) -> Pair:
    better, worse = (judgment.a, judgment.b) if p > 0.5 else (judgment.b, judgment.a)
    sure = min(max(p, 1 - p), clamp or 1.0)
    return Pair(
        id=judgment.id,
        prompt=judgment.prompt.messages,
        chosen=_turn(better.text),
        rejected=_turn(worse.text),
        p=sure,
        margin=margin(sure),
        source="revision" if "revision" in (better.kind, worse.kind) else "samples",
        principles=tuple(dict.fromkeys(v.principle for v in judgment.verdicts)),
        tags=judgment.prompt.tags,
        lineage=judgment.id,
    )


def _turn(text: str) -> tuple[Message, ...]:
    return (Message(role="assistant", content=text),)


def demonstrations(
    revisions: Iterable[Revision], judgments: Iterable[Judgment], reply_tags: Sequence[str] | None
) -> Iterator[Demonstration | Drop]:
    """What SFT imitates: revisions that the judge found better, and replies in which no critique found anything.

    `reply_tags`: unrevised replies count only for prompts with one of these tags; None: for every prompt.
    Holds the labels (not the texts) of one shard's judgments.
    """
    labels = {j.b.id: (j.state, j.p) for j in judgments if j.b.kind == "revision"}
    for revision in revisions:
        yield _demonstration(revision, labels.get(revision.id), reply_tags)


def _demonstration(
    revision: Revision, found: tuple[JudgmentState, float | None] | None, reply_tags: Sequence[str] | None
) -> Demonstration | Drop:
    prompt = revision.reply.prompt

    def drop(reason: str) -> Drop:
        return Drop(id=revision.id, stage="demonstrations", reason=reason)

    if any(done.violated for done in revision.rounds):
        if not revision.changed:
            return drop("unchanged_revision")
        if found is None:
            return drop("not_judged")
        state, p = found
        if state != "labelled" or p is None:
            return drop(f"revision_{state}")
        if p > 0.5:
            return drop("revision_worse")
        side = Candidate(id=revision.id, kind="revision", text=revision.final)
    else:
        if not revision.rounds:
            return drop("no_principle")
        if reply_tags is not None and not set(reply_tags) & set(prompt.tags):
            return drop("no_violation_found")
        side = Candidate(id=revision.reply.id, kind="reply", text=revision.reply.text)
    return Demonstration(
        id=side.id,
        prompt=prompt.messages,
        completion=_turn(side.text),
        source=side.kind,
        tags=prompt.tags,
        lineage=revision.id,
    )
