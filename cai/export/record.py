"""What is asked of an export, and the record of it that lies beside its files."""

from __future__ import annotations

from typing import Literal, NamedTuple

from cai.export.formats import FormatName
from cai.rows import Row

Split = Literal["train", "eval"]
RECORD = "export.json"


class Exported(Row):
    """`export.json`: what an export holds. `rows`: of the format, by split; `read`: rows of the run's dataset.

    `left_out`: by reason; `duplicate` counts rows of the format, the others rows of the dataset. `files`: SHA-256.
    """

    run: str
    format: FormatName
    part: str
    cai: str
    eval_share: float
    min_p: float | None
    read: int
    rows: dict[Split, int]
    left_out: dict[str, int]
    files: dict[str, str]


class Choice(NamedTuple):
    """What is to be exported. `part` None: the part of the dataset that the format is for."""

    format: FormatName = "trl"
    part: str | None = None
    eval_share: float = 0.05
    min_p: float | None = None
