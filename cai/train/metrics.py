"""The trainer's logs as one JSON record a line, for the progress display and the report's plots."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback


class MetricsLog(TrainerCallback):
    """Appends to `path`: step, total, eta_s, tokens_per_s and whatever numbers TRL logs for the step."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began = 0.0
        self._first_step = 0
        self._last: tuple[float, float] | None = None  # time and token count of the previous record

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note where this process starts, which is not step 0 for a resumed training."""
        self._began, self._first_step = time.monotonic(), state.global_step

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Write one record; the summary at the end of training (`train_runtime` …) is not a step."""
        if logs is None or not state.is_world_process_zero or "train_runtime" in logs:
            return
        now = time.monotonic()
        done = state.global_step - self._first_step
        eta = (now - self._began) / done * (state.max_steps - state.global_step) if done else None
        numbers = {
            name: float(value)
            for name, value in logs.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        }
        record = {"step": state.global_step, "total": state.max_steps, "eta_s": eta} | numbers
        if "num_tokens" in numbers:
            if self._last is not None and now > self._last[0] and numbers["num_tokens"] >= self._last[1]:
                record["tokens_per_s"] = (numbers["num_tokens"] - self._last[1]) / (now - self._last[0])
            self._last = (now, numbers["num_tokens"])
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
