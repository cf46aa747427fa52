"""The rows that flow through the pipeline: frozen, typed, serialised as one JSON object a line.

Every row has an `id` made from its parents' ids, so lineage is readable without a lookup table:
prompt `p`, reply `p/r0`, revision `p/r0/v`, judgment `p/r0~p/r0/v`, pair the same as its judgment. The second round
of DPO asks prompt `p` as `p@2`.
`calls` holds journal keys: the way from a row back to every model call behind it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Role = Literal["system", "user", "assistant"]
Probability = Annotated[float, Field(ge=0, le=1, strict=True, allow_inf_nan=False)]
FinishReason = Literal["stop", "length", "refusal", "content_filter"]
VerdictMethod = Literal["logprobs", "stated", "samples"]
JudgmentState = Literal["labelled", "below_threshold", "inconsistent", "tie", "unparsed", "refused"]


class Row(BaseModel):
    """Frozen base: unknown fields are refused, so a file of another version is never half-read."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Row):
    """One turn of a conversation."""

    role: Role
    content: str


class Prompt(Row):
    """A conversation that ends in a user turn, waiting for a reply."""

    id: str
    messages: tuple[Message, ...]
    tags: tuple[str, ...] = ()
    source: str


class Reply(Row):
    """One sampled completion of a prompt."""

    id: str
    prompt: Prompt
    sample: int
    text: str
    finish_reason: FinishReason
    model: str
    calls: tuple[str, ...]


class RevisionRound(Row):
    """One critique and, where it found a violation, the revision. `revision` is None where nothing was found."""

    round: int
    principle: str
    principle_digest: str
    critique: str
    violated: bool
    revision: str | None
    calls: tuple[str, ...]


class Revision(Row):
    """The chain critique → revision over the rounds of one reply; `final` equals the reply where no round revised."""

    id: str
    reply: Reply
    rounds: tuple[RevisionRound, ...]
    final: str

    @property
    def changed(self) -> bool:
        """True where some round replaced the reply by a different text."""
        return self.final != self.reply.text


class Candidate(Row):
    """One side of a comparison: where it comes from and its text."""

    id: str
    kind: Literal["reply", "revision"]
    text: str


class Comparison(Row):
    """Two candidates for one prompt, to be judged."""

    id: str
    prompt: Prompt
    a: Candidate
    b: Candidate


class Verdict(Row):
    """One judge's answer under one principle in one order: the probability that candidate *a* (not the first
    shown) is better, or why there is none. `judge`: its name in the run config.
    """

    judge: str
    principle: str
    order: Literal["ab", "ba"]
    p: float | None
    method: VerdictMethod
    failure: Literal["unparsed", "refused"] | None = None
    calls: tuple[str, ...]


class Judgment(Row):
    """All verdicts on one pair and the label they add up to.

    `p` is P(a better), calibrated where the run has a calibration; `p_raw` is what the judge itself said. Both
    are None where the pair is unscored.
    """

    id: str
    prompt: Prompt
    a: Candidate
    b: Candidate
    verdicts: tuple[Verdict, ...]
    p: float | None
    p_raw: float | None
    state: JudgmentState


class JudgedStep(Row):
    """One step of a reply, with all verdicts on it. `p`: that it is good; None where it is unscored.

    In each verdict the answer "yes, it is good" is what *a* is for a pair.
    """

    text: str
    verdicts: tuple[Verdict, ...]
    p: float | None
    state: JudgmentState


class JudgedSteps(Row):
    """All steps of a reply, each judged whatever the others are. `principles`: those of all of them."""

    id: str
    reply: Reply
    principles: tuple[str, ...]
    steps: tuple[JudgedStep, ...]


class LabelledPair(Row):
    """Two replies of which it is known which is better: what a judge is measured on.

    Files of other people's making hold it, so unknown fields are passed over. `prompt`: a text, or turns that
    end with the user's. `principle`: a statement, or the id of one of the constitution's; None: drawn as in a run.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    id: str
    prompt: str | tuple[Message, ...]
    a: str
    b: str
    gold: Literal["A", "B", "tie"] | None
    principle: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt as turns."""
        return (Message(role="user", content=self.prompt),) if isinstance(self.prompt, str) else self.prompt


class Recorded(LabelledPair):
    """A line of the verdict replay file: what `judge` said about a labelled pair.

    `p_a_ab`/`p_a_ba`: its probability that a is better with a, with b shown first; None: unreadable or not asked.
    """

    judge: str
    p_a_ab: Probability | None
    p_a_ba: Probability | None


class Pair(Row):
    """A preference row as trainers take it (TRL conversational format), plus what is known about its label.

    `p`: calibrated probability that `chosen` is better, in (0.5, 1]. `margin`: log-odds of `p`. Both are None where
    nobody judged: in self-play, where `chosen` is a demonstration and `rejected` a sample. `lineage`: id of the
    judgment behind the label, or of the demonstration.
    """

    id: str
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    p: float | None
    margin: float | None
    source: Literal["samples", "revision", "demonstration"]
    principles: tuple[str, ...]
    tags: tuple[str, ...]
    lineage: str


class Demonstration(Row):
    """An SFT row: the conversation and the completion to imitate."""

    id: str
    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    source: Literal["revision", "reply"]
    tags: tuple[str, ...]
    lineage: str


class Stepwise(Row):
    """A row for process reward models (TRL's stepwise supervision): the steps of a reply, up to the first bad one.

    `prompt`: as text, for that is what the format has; `messages`: the same as turns. `p`: of each step, that it is
    good. `ended`: why no more steps stand here: it was the last one, it was `bad`, or the state of the next step,
    which has no label. `lineage`: id of the reply, and of the row of the stage `steps` with every verdict.
    """

    id: str
    prompt: str
    completions: tuple[str, ...]
    labels: tuple[bool, ...]
    p: tuple[float, ...]
    messages: tuple[Message, ...]
    principles: tuple[str, ...]
    ended: Literal["last", "bad", "below_threshold", "inconsistent", "tie", "unparsed", "refused"]
    tags: tuple[str, ...]
    lineage: str


class Drop(Row):
    """A row that did not go on, with the stage and the reason by which it is counted."""

    id: str
    stage: str
    reason: str
    detail: str = ""
