"""The Ray cluster of a run: one that is running, or one of this machine's; and each worker's share of the limits."""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import signal
from collections.abc import Iterator
from typing import Any

from cai.config import ModelConfig, RayConfig, RunConfig
from cai.errors import ConfigError
from cai.models.managed import RUN_KEY
from cai.serving import board

STORE_BYTES = 100 * 2**20  # for arguments and reports, which are small
TOKEN = "RAY_AUTH_TOKEN"


def divided(config: RunConfig, workers: int) -> RunConfig:
    """The config with each worker's share of calls in flight and of limits per minute; no digest holds them."""

    def share(model: ModelConfig) -> ModelConfig:
        limits = model.limits and model.limits.model_copy(
            update={
                name: value / workers
                for name, value in model.limits.model_dump().items()
                if value is not None
            }
        )
        return model.model_copy(
            update={"max_concurrency": model.max_concurrency // workers, "limits": limits}
        )

    return config.model_copy(update={"models": {name: share(model) for name, model in config.models.items()}})


@contextlib.contextmanager
def cluster(config: RayConfig) -> Iterator[Any]:
    """Prefect's task runner on a running cluster, or on one of this machine's that ends with the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    try:
        import ray
        from prefect_ray import RayTaskRunner
    except ImportError as error:
        raise ConfigError("ray: it is not installed; install cai[ray], or leave the section out") from error
    board.say(
        f"starting {config.workers} Ray workers" if config.address is None else f"Ray at {config.address}"
    )
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    if config.address is None:
        options |= {
            "num_cpus": config.workers,
            "include_dashboard": False,
            "object_store_memory": STORE_BYTES,
        }
    before = signal.getsignal(signal.SIGTERM)
    with contextlib.ExitStack() as stack:
        if config.address is None:
            stack.enter_context(own_token())
        try:
            runner = stack.enter_context(RayTaskRunner(address=config.address, init_kwargs=options))
        except (ConnectionError, ray.exceptions.RayError) as error:
            raise ConfigError(f"ray.address: {config.address} does not answer ({error})") from error
        signal.signal(signal.SIGTERM, before)  # Ray has put its own in the place of Prefect's
        yield runner


@contextlib.contextmanager
def own_token() -> Iterator[None]:
    """Let a cluster that this process starts take orders from its own processes alone; what is set already counts."""
    mine = {"RAY_AUTH_MODE": "token", TOKEN: secrets.token_urlsafe(24)}
    if {"RAY_AUTH_MODE", TOKEN, f"{TOKEN}_PATH"} & os.environ.keys():
        yield
        return
    os.environ |= mine
    _heed_environment()
    try:
        yield
    finally:
        for name in mine:
            del os.environ[name]
        _heed_environment()


def _heed_environment() -> None:
    """Let Ray look again at what it read when it was imported, be it by somebody else."""
    raylet: Any = importlib.import_module("ray._raylet")  # whose stubs lack these
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def key_for_workers() -> Iterator[None]:
    """One key for the managed servers of the block, in the environment that Ray's workers inherit from here."""
    os.environ[RUN_KEY] = secrets.token_urlsafe(24)
    try:
        yield
    finally:
        del os.environ[RUN_KEY]
