"""The constitution of a run: principles by weight and tag, and the draw that decides which one a row meets.

The draw is weighted rendezvous hashing (Thaler & Ravishankar 1998; weights as in Schindelhauer & Schomaker
2005): every principle that applies to a row gets a score of its own, from the row and its id alone, and the
best k win. So adding, removing or editing one principle re-routes only the rows that it wins or loses, and
the order of the file means nothing. Nothing here looks at a model or at other rows.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from cai.constitution.document import Finding
from cai.constitution.extends import Resolved, resolve
from cai.constitution.principle import (
    Closed,
    ConstitutionFile,
    Example,
    Principle,
    PrincipleTest,
    Use,
    content_digest,
)

__all__ = [
    "Constitution",
    "Example",
    "Finding",
    "Principle",
    "PrincipleTest",
    "Use",
    "constitution_of",
    "draw",
    "json_schema",
    "load_constitution",
]


Lot = tuple[bytes, float, Principle]  # the id as it is hashed, the weight
KINDS_KEPT = 256  # of rows, by use and tags


class Constitution(Closed):
    """A named set of principles, with `extends` resolved. Ids are unique."""

    name: str
    version: str
    description: str = ""
    principles: tuple[Principle, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique(self) -> Constitution:
        if len({principle.id for principle in self.principles}) < len(self.principles):
            raise ValueError("two principles have the same id; rename one")
        return self

    @cached_property
    def lots(self) -> dict[tuple[Use, tuple[str, ...]], list[Lot]]:
        """What rows of a use and some tags draw from, as far as rows have asked; kept for the rows to come."""
        return {}

    @property
    def digest(self) -> str:
        """32 hex digits over what reaches a model: not over names, prose, order, weights or comments."""
        return content_digest(
            sorted(
                [use, principle.digest(use)] for principle in self.principles for use in set(principle.use)
            )
        )


def load_constitution(path: str | Path) -> Constitution:
    """Read a constitution and all that it extends.

    Raises ConstitutionError, `file:line:column: what; fix`, for the first error that `lint` finds.
    """
    return constitution_of(resolve(Path(path)))


def constitution_of(found: Resolved) -> Constitution:
    """What a run works with, of a constitution as its files say it. Raises ConstitutionError as loading does."""
    file = found.file
    return Constitution(
        name=file.name,
        version=file.version,
        description=file.description,
        principles=tuple(defined.principle for defined in found.principles),
    )


def draw(
    constitution: Constitution, *, seed: int, row_id: str, use: Use, tags: Sequence[str], k: int
) -> list[Principle]:
    """The `k` principles that a row meets, the r-th one in round r; fewer where fewer apply, none twice.

    A principle applies where it has the `use` and shares a tag with `tags`, or asks for none.
    """
    row = hashlib.blake2b(f'[{seed}, {json.dumps(row_id)}, "{use}"]'.encode(), digest_size=8)
    scored: list[tuple[float, str, Principle]] = []
    for name, weight, principle in _lots(constitution, use, tuple(tags)):
        own = row.copy()
        own.update(name)
        bits = int.from_bytes(own.digest()) >> 12  # 52 bits, so that u never rounds to 1
        # weight / ln(u), u uniform in (0, 1): the chance to come first is proportional to the weight
        scored.append((weight / math.log((bits + 0.5) / 2**52), principle.id, principle))
    if k == 1 and scored:
        return [min(scored)[2]]
    return [principle for _, _, principle in sorted(scored)[:k]]


def _lots(constitution: Constitution, use: Use, tags: tuple[str, ...]) -> list[Lot]:
    known = constitution.lots
    found = known.get((use, tags))
    if found is None:
        if len(known) >= KINDS_KEPT:
            known.clear()
        found = known[use, tags] = [
            (p.id.encode(), p.weight, p) for p in constitution.principles if _applies(p, use, tags)
        ]
    return found


def _applies(principle: Principle, use: Use, tags: Sequence[str]) -> bool:
    return use in principle.use and (
        not principle.applies_to or not set(principle.applies_to).isdisjoint(tags)
    )


def json_schema() -> dict[str, Any]:
    """The JSON Schema of constitution files, as committed in constitutions/constitution.schema.json."""
    body = ConstitutionFile.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **body, "title": "cai constitution"}
