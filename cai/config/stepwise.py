"""Process-level preference: the steps of sampled replies, each judged by itself."""

from __future__ import annotations

from pydantic import Field

from cai.config.section import Section


class StepwiseConfig(Section):
    """Have each step of the sampled replies judged, for a process reward model.

    `judge`: the model that judges; null: the run's own judge. `separator`: what stands between two steps; null: a
    line that begins with "Step 1" and so on begins a step where a reply has such lines, else blank lines divide.
    `principles`: drawn for a reply, the same for all of its steps. `threshold`: smallest max(p, 1-p) of a label that
    is kept. `max_steps`: a reply of more steps is left out before it costs a call.
    """

    judge: str | None = None
    separator: str | None = Field(None, min_length=1)
    principles: int = Field(1, ge=1)
    threshold: float = Field(0.7, ge=0.5, le=1.0)
    max_steps: int = Field(32, ge=1)
