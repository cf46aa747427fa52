"""One principle as a constitution file writes it, and the file around it: frozen, closed to unknown keys.

These models are the schema of the YAML: the JSON Schema that editors complete from is generated from them.
What reads the files is `cai.constitution.lint`, what a run works with is `cai.constitution`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)

from cai.rows import Message

Use = Literal["revise", "judge"]
KEBAB = r"^[a-z0-9]+(-[a-z0-9]+)*$"


def _as_turns(value: Any) -> Any:
    """A prompt text counts as a conversation of one user turn."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _as_prompt(value: Any) -> Any:
    """The same for the prompt of a test, which counts without the blanks around it."""
    return _as_turns(value.strip() if isinstance(value, str) else value)


def _to_answer(turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """Refuses turns that leave nothing to answer."""
    if not turns or turns[-1].role != "user":
        raise ValueError("the conversation must end in a user turn; end it with what the reply answers")
    if not turns[-1].content.strip():
        raise ValueError("the last user turn is empty; write what the reply answers")
    return turns


Text = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1), Field(json_schema_extra={"pattern": r"\S"})
]
Turns = Annotated[
    tuple[Message, ...], BeforeValidator(_as_turns, json_schema_input_type=str | tuple[Message, ...])
]
PromptTurns = Annotated[
    tuple[Message, ...],
    BeforeValidator(_as_prompt, json_schema_input_type=str | tuple[Message, ...]),
    AfterValidator(_to_answer),
]


class Closed(BaseModel):
    """Frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Example(Closed):
    """A few-shot example: a reply, the critique it should get and, where that finds a violation, a revision."""

    conversation: Turns = Field(description="A prompt text, or turns of {role, content} up to a user turn.")
    reply: Text = Field(description="The assistant's reply that is looked at.")
    critique: Text = Field(description="What a good critique of the reply says, without a verdict line.")
    violated: bool = Field(description="Whether the reply breaks the principle.", strict=True)
    revision: Text | None = Field(None, description="The reply, mended; only where it breaks the principle.")

    @model_validator(mode="after")
    def _sensible(self) -> Example:
        _to_answer(self.conversation)
        if self.revision is not None and not self.violated:
            raise ValueError(
                "a reply that breaks nothing has no revision; remove it, or set 'violated: true'"
            )
        return self


class PrincipleTest(Closed):
    """A check of a principle: a judge that goes by it must prefer `better`."""

    prompt: PromptTurns = Field(
        description="What the user writes, or turns of {role, content} up to a user turn."
    )
    better: Text = Field(description="The reply that keeps the principle.")
    worse: Text = Field(description="The reply that breaks it, or keeps it less well.")


class Source(Closed):
    """Where an imported draft comes from. No model reads it, no digest covers it; it may be deleted."""

    format: Text = Field(description="Format that it was imported from.")
    at: Text | None = Field(None, description="Its place there: a key, a line, a heading or a file name.")
    original: JsonValue = Field(
        None, description="What stands there and in no field here; an export to that format gives it back."
    )


class Principle(Closed):
    """One principle. `digest` covers what a model reads of it: editing anything else re-asks nothing."""

    id: Annotated[str, StringConstraints(pattern=KEBAB)] = Field(
        description="Unique name in kebab-case; rows keep it, and a renamed principle is drawn anew."
    )
    statement: Text = Field(description="What a good reply does or does not do, in one sentence.")
    critique: Text | None = Field(None, description="Own wording for critiques; else the statement is used.")
    revision: Text | None = Field(None, description="Own wording for revisions; else the statement is used.")
    judge: Text | None = Field(None, description="Own wording for judging; else the statement is used.")
    weight: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        strict=True,
        description="How often it is drawn, relative to the others.",
    )
    priority: int = Field(0, strict=True, description="Authority: a higher one wins where verdicts conflict.")
    applies_to: tuple[Text, ...] = Field(
        (), description="Prompt tags that it is meant for; empty: every prompt."
    )
    use: tuple[Use, ...] = Field(
        ("revise", "judge"), min_length=1, description="Whether it revises replies, judges pairs, or both."
    )
    examples: tuple[Example, ...] = Field((), description="Few-shot examples for critiques and revisions.")
    tests: tuple[PrincipleTest, ...] = Field(
        (), description="Pairs by which a judge of this principle is checked."
    )
    source: Source | None = Field(None, description="Where it was imported from.")

    def digest(self, stage: Use) -> str:
        """32 hex digits over all that a model reads of the principle in `stage`, and nothing else."""
        if stage == "judge":
            return content_digest("judge", self.judge or self.statement)
        return content_digest(
            "revise",
            self.critique or self.statement,
            self.revision or self.statement,
            [example.model_dump() for example in self.examples],
        )


class ConstitutionFile(Closed):
    """A constitution as it stands in one file, before `extends` is resolved."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["principles"]}, {"required": ["extends"]}]}
    )

    schema_: Literal[1] = Field(alias="schema", description="Version of this file format.")
    name: Text = Field(description="Short name; it goes into the dataset card.")
    version: Text = Field(description="Version of the content, in quotes.")
    description: str = Field("", description="What the constitution is for.")
    extends: tuple[Text, ...] = Field(
        (),
        description="Files, relative to this one, that come first; ids used again below replace theirs.",
    )
    principles: tuple[Principle, ...] = Field(
        (), description="The principles of this file; their order is free."
    )
    source: Source | None = Field(None, description="Where the file was imported from.")


def content_digest(*parts: Any) -> str:
    """32 hex digits (BLAKE2b) over JSON-able parts; lone surrogates are digested like any character."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()
