"""What a user states about engines, read from the options of `cai plan`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cai.config import RunConfig
from cai.errors import ConfigError
from cai.plan.need import Assumed


def assumed(
    config: RunConfig,
    rates: Sequence[str],
    gpus: Sequence[str],
    *,
    gpu_hour_usd: float | None,
    utilisation: float,
    violated: float | None,
    reply_share: float,
    prompt_tokens: float | None,
) -> Assumed:
    """Options as values. `rates`: `[MODEL=]PREFILL/DECODE`, `gpus`: `[MODEL=]N`. Raises ConfigError."""
    read_rates: dict[str, tuple[float, float]] = {}
    for text in rates:
        name, value = _of_model(config, "--rate", text)
        prefill, slash, decode = value.partition("/")
        if not slash:
            raise _wrong("--rate", text, "[MODEL=]PREFILL/DECODE in tokens a second, e.g. policy=8000/2000")
        read_rates[name] = (_positive("--rate", text, prefill), _positive("--rate", text, decode))
    read_gpus = {
        name: _positive("--gpus", text, value)
        for text in gpus
        for name, value in [_of_model(config, "--gpus", text)]
    }
    return Assumed(
        rates=read_rates,
        gpus=read_gpus,
        gpu_hour_usd=gpu_hour_usd,
        utilisation=utilisation,
        violated=violated,
        reply_share=reply_share,
        prompt_tokens=prompt_tokens,
    )


def _of_model(config: RunConfig, option: str, text: str) -> tuple[str, str]:
    """The model that an option's value is for, "" for all others, and the value."""
    name, equals, value = text.rpartition("=")
    if equals and name not in config.models:
        raise ConfigError(f"{option} {text}: no model {name!r} in the config ({', '.join(config.models)})")
    if equals and config.models[name].backend != "vllm":
        raise ConfigError(
            f"{option} {text}: {name!r} is hosted by {config.models[name].backend}; its price and "
            f"models.{name}.limits say what it costs and how long it takes"
        )
    return name, value


def _positive(option: str, text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise _wrong(option, text, "a number") from None
    if not (number > 0 and math.isfinite(number)):
        raise _wrong(option, text, "a number above 0")
    return number


def _wrong(option: str, text: str, what: str) -> ConfigError:
    return ConfigError(f"{option} {text}: give {what}")
