"""Two streams of rows, matched by id as they go by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Protocol, TypeVar


class Identified(Protocol):
    """Anything with an id."""

    @property
    def id(self) -> str: ...


One = TypeVar("One", bound=Identified)
Two = TypeVar("Two", bound=Identified)


def joined(ones: Iterable[One], twos: Iterable[Two]) -> Iterator[tuple[One | None, Two | None]]:
    """Every row once: with the other stream's row of its id, or with None where that has none.

    Both are read in step, and only rows that still miss their match are held: few where the streams have about
    the same order, however long they are. An id stands once in a stream.
    """
    first: dict[str, One] = {}
    second: dict[str, Two] = {}
    for one, two in zip_longest(ones, twos):
        if one is not None:
            if (match := second.pop(one.id, None)) is not None:
                yield one, match
            else:
                first[one.id] = one
        if two is not None:
            if (waiting := first.pop(two.id, None)) is not None:
                yield waiting, two
            else:
                second[two.id] = two
    yield from ((one, None) for one in first.values())
    yield from ((None, two) for two in second.values())
