"""The trainer's logs as one JSON record a line, for the progress display and the report's plots."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from cai.train.findings import Speed
from cai.train.speed import flops_per_token, peak_flops, peak_memory


class MetricsLog(TrainerCallback):
    """Appends to `path`: step, total, eta_s, tokens_per_s, mfu, peak_memory and whatever numbers TRL logs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began = 0.0
        self._first_step = 0
        self._tokens_at_peak: float | None = None  # a second, could all devices do nothing but multiply
        self._last: tuple[float, float] | None = None  # time and token count of the previous record
        self._measured = (
            0.0,
            0.0,
        )  # seconds and tokens between records, so without start and checkpoints' end
        self._device: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note where this process starts, which is not step 0 for a resumed training, and with what."""
        self._began, self._first_step = time.monotonic(), state.global_step
        self._device = args.device
        needed, peak = flops_per_token(kwargs["model"]), peak_flops(args.device)
        if needed is not None and peak is not None:
            self._tokens_at_peak = peak * args.world_size / needed

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
        record["peak_memory"] = peak_memory(args.device)
        if "num_tokens" in numbers:
            record |= self._speed_since(now, numbers["num_tokens"])
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def _speed_since(self, now: float, tokens: float) -> dict[str, float]:
        """Tokens a second since the record before, and what share of the devices' peak that is where it is known."""
        last, self._last = self._last, (now, tokens)
        if last is None or now <= last[0] or tokens < last[1]:
            return {}
        seconds, counted = self._measured
        self._measured = (seconds + now - last[0], counted + tokens - last[1])
        return self._rates((tokens - last[1]) / (now - last[0]))

    def _rates(self, tokens_per_s: float) -> dict[str, float]:
        rates = {"tokens_per_s": tokens_per_s}
        at_peak = self._tokens_at_peak
        return rates if at_peak is None else rates | {"mfu": tokens_per_s / at_peak}

    def speed(self) -> Speed:
        """Of this process's whole training: mean tokens a second, MFU, and the most memory that it held."""
        seconds, tokens = self._measured
        rates = self._rates(tokens / seconds) if seconds else {}
        return Speed(
            tokens_per_s=rates.get("tokens_per_s"),
            mfu=rates.get("mfu"),
            peak_memory=peak_memory(self._device),
        )
