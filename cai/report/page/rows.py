"""Single rows as the page shows them: a drawn revision, and what should be looked at first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cai.report.page.scan import NEAR, Best, Scan, both_orders
from cai.report.words import Piece, word_diff
from cai.rows import Judgment, Message, Prompt, Revision

CUT = 3000  # characters of a text that are shown


class Shown(NamedTuple):
    """A row: what is said of it, the prompt, the difference between two texts or the texts themselves, and remarks."""

    id: str
    said: str
    prompt: str
    turns: int
    pieces: list[Piece]
    texts: list[tuple[str, str]]
    remarks: list[tuple[str, str]]


class Worst(NamedTuple):
    """Rows of one kind, the worst first. `anchor`: its name within the page."""

    anchor: str
    title: str
    why: str
    rows: list[Shown]


def examples_of(found: Scan) -> list[Shown]:
    """The drawn revisions, each with what the judge found of it, and its critiques."""
    return [_revision(row, _verdict(found.verdicts.get(row.id))) for _, row in found.drawn.rows()]


def worst_of(found: Scan) -> list[Worst]:
    """All kinds, also those without a row; nothing of a run without any."""
    near = found.growth.chars["near"]
    kinds = [
        Worst("worst-grown", "Grew most", "The most characters added by a revision.", _grown(found.grown)),
        Worst(
            "worst-near",
            "Nearly unchanged",
            f"Revised, and yet no more than {NEAR:.0%} of the words are others: {near:,} in all.",
            [
                _revision(row, f"at most {-score:.0%} of the words changed")
                for score, row in found.near.rows()
            ],
        ),
        Worst(
            "worst-regressed",
            "Made worse, says the judge",
            "Revisions that lose most clearly against their reply.",
            [_judgment(row, "regressed") for _, row in found.regressed.rows()],
        ),
        Worst(
            "worst-unsure",
            "Kept with the least confidence",
            "Labels just above the threshold.",
            [_judgment(row, f"confidence {-score:.3f}") for score, row in found.unsure.rows()],
        ),
        Worst(
            "worst-torn",
            "Most inconsistent",
            "The judge changed sides with the order, by the largest distance.",
            [_judgment(row, f"its orders are {score:.3f} apart") for score, row in found.torn.rows()],
        ),
    ]
    return kinds if any(kind.rows for kind in kinds) else []


def _grown(best: Best[Revision]) -> list[Shown]:
    return [
        _revision(row, f"{len(row.reply.text):,} → {len(row.final):,} characters") for _, row in best.rows()
    ]


def _revision(row: Revision, said: str) -> Shown:
    remarks = [
        (f"critique under {done.principle}", cut(done.critique)) for done in row.rounds if done.violated
    ]
    pieces = word_diff(cut(row.reply.text), cut(row.final))
    return _shown(row.id, said, row.reply.prompt, pieces=pieces, remarks=remarks)


def _judgment(row: Judgment, said: str) -> Shown:
    remarks = [(f"{judge} under {principle}", text) for judge, principle, text in _read(row)]
    if row.b.kind == "revision":
        pieces = word_diff(cut(row.a.text), cut(row.b.text))
        return _shown(row.id, f"{said}; {_verdict(row)}", row.prompt, pieces=pieces, remarks=remarks)
    texts = [("a", cut(row.a.text)), ("b", cut(row.b.text))]
    shown = "no p" if row.p is None else f"P(a better) = {row.p:.3f}"
    return _shown(row.id, f"{said}; {shown}", row.prompt, texts=texts, remarks=remarks)


def _shown(
    id: str,
    said: str,
    prompt: Prompt,
    *,
    pieces: Iterable[Piece] = (),
    texts: Iterable[tuple[str, str]] = (),
    remarks: Iterable[tuple[str, str]] = (),
) -> Shown:
    last = cut(_last(prompt.messages))
    return Shown(id, said, last, len(prompt.messages), list(pieces), list(texts), list(remarks))


def _last(messages: tuple[Message, ...]) -> str:
    return messages[-1].content


def _read(row: Judgment) -> Iterator[tuple[str, str, str]]:
    """Judge, principle and what each order said."""
    for verdict, ab, ba in both_orders(row.verdicts):
        yield verdict.judge, verdict.principle, f"P(a better) = {ab:.3f} with a first, {ba:.3f} with b first"


def _verdict(row: Judgment | None) -> str:
    """What the judge found of a revision, which is the side b."""
    if row is None:
        return "not judged"
    if row.p is None or row.state != "labelled":
        return f"judge: {row.state.replace('_', ' ')}" + ("" if row.p is None else f", p = {1 - row.p:.3f}")
    return f"judge: revision {'better' if row.p < 0.5 else 'worse'}, p = {1 - row.p:.3f}"


def cut(text: str) -> str:
    """A text of at most CUT characters, with how many more there are."""
    return text if len(text) <= CUT else f"{text[:CUT]} … [{len(text) - CUT:,} more characters]"
