"""What every section of a run config is."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

Yaml = dict[str, Any]


class Section(BaseModel):
    """Frozen, and closed to unknown keys; errors do not repeat what was given, which may be a key by mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
