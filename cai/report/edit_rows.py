"""What `edit.json` holds: one `Edit`. Rows are matched by id; what only one version has came or went."""

from __future__ import annotations

from typing import Literal

from cai.constitution.diff import Change
from cai.rows import Row


class Stand(Row):
    """Which constitution it was."""

    name: str
    version: str
    digest: str


class Move(Row):
    """`rows` that met one principle where they had met another one; None: none in its place."""

    before: str | None
    after: str | None
    rows: int


class Met(Row):
    """How the rows of both versions met the constitution; each counts once, so the five add up to `both`.

    `other_texts`: what is critiqued or compared is another text, so nothing else of the row is counted. `moved`:
    other principles, over the rounds that both came to; `moves`: those lost and gained, the largest first.
    `reordered`: the same ones in other rounds. `asked_again`: by other calls. `untouched`: by the same calls.
    """

    both: int
    other_texts: int
    moved: int
    reordered: int
    asked_again: int
    untouched: int
    moves: tuple[Move, ...]


class Revisions(Row):
    """Critiqued replies. `critiques`: of one reply under one principle in both versions; `found`, `cleared`: those
    that see a violation where there was none, and the other way round. `rewritten`: the final text is another one.
    """

    before: int
    after: int
    met: Met
    critiques: int
    found: int
    cleared: int
    rewritten: int


class Judgments(Row):
    """Comparisons, and of those of the same texts how labels changed. `gained`, `lost`: are labels now, were labels;
    `states`: by "state before → state now". `flipped`: the label is for the other side. `p_moved`: by more than 0.1.
    """

    before: int
    after: int
    met: Met
    gained: int
    lost: int
    states: dict[str, int]
    flipped: int
    p_moved: int


class Pairs(Row):
    """Rows of the preference data. Of `both`: `swapped` have chosen and rejected exchanged, `rewritten` other texts."""

    before: int
    after: int
    both: int
    swapped: int
    rewritten: int


class Example(Row):
    """One row that changed, with its texts. `title`: what changed. `texts`: what both are about; `before`, `after`: the
    critique, the revision, or the label.
    """

    kind: Literal["critique", "revision", "label"]
    id: str
    title: str
    texts: tuple[str, ...]
    before: str
    after: str


class Edit(Row):
    """What an edit of the constitution changed, from `before` to `after`.

    `inputs`: digest of all that was compared. `config`: keys of the config that are different as well; where there
    are some, what follows is not due to the edit alone. `skipped`: why rows were not compared; the rest is then empty.
    """

    inputs: str
    before: Stand
    after: Stand
    changes: tuple[Change, ...]
    config: tuple[str, ...]
    skipped: str | None
    revisions: Revisions | None
    judgments: dict[str, Judgments]
    pairs: Pairs | None
    examples: tuple[Example, ...]
