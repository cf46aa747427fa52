"""What a step makes of a row: rows, or a drop with its reason; every other failure stops the shard."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from cai.errors import CaiError, ParseError, ProviderError, Refused, StoreError
from cai.rows import Drop, Row
from cai.shard.calls import Ask


class Identified(Protocol):
    """Anything with a row id."""

    @property
    def id(self) -> str:
        """The row's id."""


In = TypeVar("In", bound=Identified)
Step = Callable[[In, Ask], Awaitable[Sequence[Row]]]


async def results_of(stage: str, step: Step[In], row: In, ask: Ask) -> Sequence[Row]:
    """What a step makes of a row; a failure that is the row's own becomes its drop, any other is raised."""
    try:
        results = await step(row, ask)
    except Exception as error:
        cause = _leaf(error)
        reason = _drop_reason(cause)
        if reason is None and isinstance(cause, CaiError):
            raise cause from cause.__cause__
        if reason is None:
            text = f"{type(cause).__name__}: {cause}"
            raise RuntimeError(f"stage {stage}, row {row.id}: a bug in the step: {text}") from error
        return [Drop(id=row.id, stage=stage, reason=reason, detail=str(cause))]
    if not results:
        raise StoreError(f"stage {stage}, row {row.id}: the step returned neither a row nor a drop")
    return results


def _drop_reason(error: BaseException) -> str | None:
    """The reason under which a row with this error is dropped; None where the shard has to stop."""
    if isinstance(error, Refused):
        return "refused"
    if isinstance(error, ParseError):
        return "unparsed"
    if isinstance(error, ProviderError) and not error.fatal:
        return error.kind
    return None


def _leaf(error: Exception) -> Exception:
    """The error to act on in a group from concurrent calls: one that stops the shard, else the first."""
    if not isinstance(error, ExceptionGroup):
        return error
    leaves: list[Exception] = [_leaf(inner) for inner in error.exceptions]
    return next((leaf for leaf in leaves if _drop_reason(leaf) is None), leaves[0])
