"""What a plan says: for each stage how many rows and calls are held, and how many would be made."""

from __future__ import annotations

from typing import Literal

from cai.rows import Row

State = Literal["unchanged", "changed", "open"]


class Calls(Row):
    """How many calls would be made: at least `low`, at most `high` (replies that do not parse are asked again
    on top), and `expected` by the run's own record. All three are equal where nothing depends on a reply yet to come.
    """

    low: int = 0
    expected: float = 0.0
    high: int = 0

    def __add__(self, other: Calls) -> Calls:
        """Calls of two lots of rows."""
        return Calls(
            low=self.low + other.low,
            expected=self.expected + other.expected,
            high=self.high + other.high,
        )

    @classmethod
    def exactly(cls, count: int) -> Calls:
        """A number of calls that depends on no reply."""
        return cls(low=count, expected=count, high=count)


class StagePlan(Row):
    """One stage. `kind`: `critique` and `revision` are told apart, both are of the stage `revise`.

    `rows`: those that the stage is known to read; `asked`: the ids of those with a call to make; `unknown`: how many
    more may come, out of replies yet to be made. `held`: calls whose reply the journal has. Tokens and `cost` (US
    dollars in the model's `mode`; None where no price is known) are estimates for the expected calls.
    `batch_saving`: US dollars that mode batch takes off the live price; None without a price or a batch API.
    `batches`: how many batches, about, would wait for one another.
    """

    stage: str
    kind: str
    model: str
    rows: int
    asked: tuple[str, ...]
    unknown: int
    held: int
    calls: Calls
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    mode: Literal["live", "batch"]
    batch_saving: float | None
    batches: int


class Plan(Row):
    """What a run would do. `dataset`: `unchanged`, `changed`, or `open` where that depends on replies yet to come.

    `assumed`: with a target of pairs, for how many prompts this is counted, and why. `over_budget`: which caps the
    estimate exceeds, with what is spent already, in words.
    """

    run: str
    stages: tuple[StagePlan, ...]
    dataset: State
    assumed: str | None = None
    over_budget: tuple[str, ...] = ()

    @property
    def calls(self) -> Calls:
        """All calls of all stages."""
        return sum((stage.calls for stage in self.stages), Calls())

    @property
    def held(self) -> int:
        """Calls whose replies the journal holds."""
        return sum({stage.stage: stage.held for stage in self.stages}.values())
