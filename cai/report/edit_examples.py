"""A handful of the rows that an edit changed, with their texts, for the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from cai.report.edit_rows import Example
from cai.rows import Judgment, Revision

EXAMPLES = 3  # a kind
TEXT = 2000  # characters of a text that an example shows


def principles_of(judgment: Judgment) -> list[str]:
    """The principles that a judgment was made under, in the order of the draw."""
    return list(dict.fromkeys(verdict.principle for verdict in judgment.verdicts))


def keep(examples: list[Example], found: Iterator[Example]) -> None:
    """Add to `examples` the first few of each kind."""
    for one in found:
        if sum(kept.kind == one.kind for kept in examples) < EXAMPLES:
            examples.append(one)


def revision_examples(was: Revision, now: Revision) -> Iterator[Example]:
    """Critiques that changed their mind about one reply, and its other revision."""
    asked = now.reply.prompt.messages[-1].content
    before = {done.principle: done for done in was.rounds}
    for done in now.rounds:
        known = before.get(done.principle)
        if known is not None and known.violated != done.violated:
            verdict = "finds a violation now" if done.violated else "finds no violation any more"
            texts, title = (asked, now.reply.text), f"{done.principle} {verdict}"
            yield _example("critique", now.id, title, texts, known.critique, done.critique)
    if was.final != now.final:
        yield _example("revision", now.id, "revised differently", (asked,), was.final, now.final)


def label_examples(was: Judgment, now: Judgment) -> Iterator[Example]:
    """A label that came, went or was turned round."""
    labels = (was.state == "labelled", now.state == "labelled")
    turned = None not in (was.p, now.p) and ((was.p or 0) > 0.5) != ((now.p or 0) > 0.5)
    if labels[0] != labels[1] or (all(labels) and turned):
        title = (
            "now a label" if not labels[0] else "no label any more" if not labels[1] else "label turned round"
        )
        texts = (now.prompt.messages[-1].content, now.a.text, now.b.text)
        yield _example("label", now.id, title, texts, _said(was), _said(now))


def _said(judgment: Judgment) -> str:
    p = "" if judgment.p is None else f", P(first better) {judgment.p:.2f}"
    return f"{judgment.state.replace('_', ' ')}{p}, by {', '.join(principles_of(judgment))}"


def _example(
    kind: Literal["critique", "revision", "label"],
    id_: str,
    title: str,
    texts: Sequence[str],
    before: str,
    after: str,
) -> Example:
    return Example(
        kind=kind,
        id=_written(id_),
        title=title,
        texts=tuple(map(_written, texts)),
        before=_written(before),
        after=_written(after),
    )


def _written(text: str) -> str:
    """The beginning of a text, as JSON can carry it: lone surrogates replaced."""
    cut = text if len(text) <= TEXT else text[: TEXT - 1] + "…"
    return cut.encode("utf-8", "replace").decode()
