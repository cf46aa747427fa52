"""What a run may spend at most."""

from __future__ import annotations

from pydantic import Field, model_validator

from cai.config.section import Section


class BudgetConfig(Section):
    """Hard caps on the whole run folder, over all its resumes; they change no row, and can be raised at any time.

    `max_calls`: attempts sent to models, failed ones too; `max_tokens`: of prompts and replies; `max_cost`: US dollars.
    """

    max_calls: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    max_cost: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _any(self) -> BudgetConfig:
        if self.max_calls is self.max_tokens is self.max_cost is None:
            raise ValueError("give 'max_calls', 'max_tokens', 'max_cost' or several of them")
        return self
