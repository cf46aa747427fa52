"""The judged rows of a run, found by one pass over its files: how many there are, which are drawn, where they lie.

A pass reads of each line only the id and the last fields, and holds only what is drawn, so a run of any size can be
sampled. Whole rows are read from their place when they are shown.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from cai.errors import StoreError
from cai.given import open_given
from cai.judges.stages import joint_stage
from cai.marks.mark import Key
from cai.rows import Judgment, JudgmentState
from cai.store import decode, explain, guard

Of = Literal["labelled", "scored"]
# How `cai.store.encode` writes a judgment: the id first, the label last. No text of a row can reach these places.
_HEAD = re.compile(rb'\{"id":("(?:[^"\\]|\\.)*")')
_TAIL = re.compile(rb'"p":([^,"]+),"p_raw":[^,"]+,"state":"([a-z_]+)"\}\n?')
_TAIL_BYTES = 160  # the last fields need fewer
_KEPT = 8  # draws that are remembered


class Place(NamedTuple):
    """Where a judged row lies. `p`: probability that a is better, None for an unscored row."""

    stage: str
    id: str
    state: JudgmentState
    p: float | None
    path: Path
    offset: int

    @property
    def key(self) -> Key:
        """As marks name the row."""
        return self.stage, self.id


class Drawn(NamedTuple):
    """Rows in the order of their draw, and how many there are to draw from: labelled ones, scored ones."""

    places: tuple[Place, ...]
    labelled: int
    scored: int

    def size(self, of: Of) -> int:
        """How many rows of a kind the run has."""
        return self.labelled if of == "labelled" else self.scored


def judged_files(run: Path) -> list[tuple[str, Path]]:
    """The files of judged rows, with their stages: those of all rounds, not those of single judges of a jury."""
    folders = sorted(path for path in run.glob("*judge") if joint_stage(path.name) == path.name)
    return [(folder.name, path) for folder in folders for path in sorted(folder.glob("rows-*.jsonl"))]


def scan(run: Path) -> Iterator[Place]:
    """Every judged row of a run. Raises StoreError naming `file:line` at a line that is none."""
    for stage, path in judged_files(run):
        offset = 0
        with guard(path), open_given(path) as file:
            for number, line in enumerate(file, 1):
                try:
                    yield _place(stage, path, offset, line)
                except (ValueError, KeyError, TypeError) as error:
                    raise StoreError(f"{path}:{number}: not a judged row; run the stage again") from error
                offset += len(line)


def _place(stage: str, path: Path, offset: int, line: bytes) -> Place:
    head = _HEAD.match(line)
    tail = _TAIL.fullmatch(line, max(0, line.rfind(b'"p":', len(line) - _TAIL_BYTES)))
    if head and tail:
        p = None if tail[1] == b"null" else float(tail[1])
        return Place(stage, json.loads(head[1]), tail[2].decode(), p, path, offset)  # type: ignore[arg-type]
    row = json.loads(line)
    return Place(stage, row["id"], row["state"], row["p"], path, offset)


def read_place(place: Place) -> Judgment:
    """The row at a place. Raises StoreError where the file has changed since."""
    with guard(place.path), open_given(place.path) as file:
        file.seek(place.offset)
        line = file.readline()
    try:
        found = decode(line, Judgment)
    except ValueError as error:
        raise StoreError(f"{place.path}: changed while it was read ({explain(error)}); try again") from error
    if found.id != place.id:
        raise StoreError(f"{place.path}: changed while it was read; try again")
    return found


def places_of(run: Path, wanted: Collection[Key]) -> dict[Key, Place]:
    """Where these rows lie; rows that the run does not have (any more) are left out."""
    return {place.key: place for place in scan(run) if place.key in wanted} if wanted else {}


def draw_rows(run: Path, *, of: Of, seed: int, n: int) -> Drawn:
    """The first `n` rows in an order that the seed and each row's own id decide, so rows that come later move none.

    The same again is answered from memory while the run's files stay as they are. Raises StoreError.
    """
    with guard(run):
        stats = [(path, path.stat()) for _, path in judged_files(run)]
    return _drawn(run, tuple((path, s.st_size, s.st_mtime_ns) for path, s in stats), of, seed, n)


@functools.lru_cache(maxsize=_KEPT)
def _drawn(run: Path, files: tuple[tuple[Path, int, int], ...], of: Of, seed: int, n: int) -> Drawn:
    counts = {"labelled": 0, "scored": 0}

    def eligible() -> Iterator[tuple[bytes, Place]]:
        for place in scan(run):
            scored = place.p is not None and place.p != 0.5
            labelled = scored and place.state == "labelled"
            counts["scored"] += scored
            counts["labelled"] += labelled
            if labelled if of == "labelled" else scored:
                yield lot(seed, place.key), place

    places = heapq.nsmallest(max(n, 1), eligible(), key=lambda one: one[0])  # for none it would count none
    return Drawn(tuple(place for _, place in places[:n]), counts["labelled"], counts["scored"])


def lot(seed: int, key: Key, what: str = "") -> bytes:
    """What decides a row's place in the draw or, for another `what`, something else about it."""
    stage, row = key
    return hashlib.blake2b(
        _lots_of(seed, stage, what) + row.encode("utf-8", "surrogatepass"), digest_size=12
    ).digest()


@functools.lru_cache(maxsize=64)
def _lots_of(seed: int, stage: str, what: str) -> bytes:
    return json.dumps([seed, stage, what]).encode()


def population(run: Path) -> Drawn:
    """How many rows there are to draw from, and none of them."""
    return draw_rows(run, of="labelled", seed=0, n=0)
