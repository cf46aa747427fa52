"""What a run reaches for outside of this machine: keys, endpoints, Prefect; and its inputs, as the run checks them."""

from __future__ import annotations

import asyncio
import os
import urllib.error
import urllib.request
from typing import Any

from cai.config import ModelConfig, RunConfig
from cai.doctor.finding import Finding, asked_models
from cai.errors import CaiError, ConfigError
from cai.models.check import KEY_ENV, api_key, block_name
from cai.preflight import check_endpoint, check_inputs

DEADLINE_S = 10.0  # for one endpoint to answer a free question
PREFECT = "start it (prefect server start), unset PREFECT_API_URL, or run with --no-prefect"


def keys(config: RunConfig | None) -> list[Finding]:
    """Whether the environment variables with keys are set; what is in them is never shown."""
    if config is None:
        return [
            Finding(area="key", what=env, found="set", state="ok")
            if os.environ.get(env, "").strip()
            else Finding(area="key", what=env, found="not set", state="note", fix=f"export {env}=… for {backend}")
            for backend, env in KEY_ENV.items()
        ]  # fmt: skip
    wanted = {env: model for model in asked_models(config).values() if (env := _key_env(model))}
    found = []
    for env, model in wanted.items():
        try:
            api_key(model)
            found.append(Finding(area="key", what=env, found="set", state="ok"))
        except ConfigError:
            state = "empty" if env in os.environ else "not set"
            block = f"save it as Prefect's Secret block {block_name(env)}"
            fix = f"export {env}=…, {block}, or name another variable in api_key_env"
            found.append(Finding(area="key", what=env, found=state, state="missing", fix=fix))
    return found


def inputs(config: RunConfig, lacks_key: bool) -> list[Finding]:
    """Constitution, templates, prompts and all else that a run checks before its first call."""
    try:
        check_inputs(config)
    except CaiError as error:
        if lacks_key and any(
            env in str(error) for model in asked_models(config).values() if (env := _key_env(model))
        ):
            return [
                Finding(area="input", what="config", found="checked up to the missing key", state="note",
                        fix="look again with the key set")
            ]  # fmt: skip
        return [
            Finding(area="input", what="config", found=str(error), state="missing", fix="mend the config or the file")
        ]  # fmt: skip
    what = {"area": "input", "what": "config", "found": "constitution, templates and prompts are usable"}
    return [Finding.model_validate({**what, "state": "ok"})]


async def endpoints(config: RunConfig) -> list[Finding]:
    """Whether each endpoint answers and serves its model; all are asked at once, and nothing is generated."""
    looks = [
        _look(name, model, endpoint)
        for name, model in asked_models(config).items()
        if model.managed is None
        for endpoint in model.endpoints or (model.endpoint,)
    ]
    return list(await asyncio.gather(*looks))


async def _look(name: str, model: ModelConfig, endpoint: str | None) -> Finding:
    asked: dict[str, Any] = {"area": "endpoint", "what": f"models.{name}: {endpoint or model.backend}"}
    try:
        api_key(model)
    except ConfigError:
        return Finding(**asked, found="not asked", state="note", fix="set its key first")
    brief = model.model_copy(update={"timeout_s": DEADLINE_S / 2, "deadline_s": DEADLINE_S / 2})
    try:
        async with asyncio.timeout(DEADLINE_S):
            await check_endpoint(name, brief, endpoint)
    except TimeoutError:
        problem, fix = f"no answer in {DEADLINE_S:g} s", "is the address right, and the network there?"
    except ConfigError as error:
        problem, fix = str(error), f"start it, or change models.{name}"
    else:
        return Finding(**asked, found=f"serves {model.model}", state="ok")
    return Finding(**asked, found=problem, state="missing", fix=fix)


def prefect() -> list[Finding]:
    """The Prefect server, where one is configured; asked by HTTP alone."""
    url = os.environ.get("PREFECT_API_URL", "").strip()
    if not url:
        return []
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=DEADLINE_S) as reply:
            problem = "" if reply.status == 200 else f"answers with status {reply.status}"
    except (OSError, ValueError) as error:  # refused, timed out, no address at all
        problem = f"does not answer ({getattr(error, 'reason', error)})"
    state, fix = ("missing", PREFECT) if problem else ("ok", "")
    found = {"area": "prefect", "what": url, "found": problem or "healthy", "state": state, "fix": fix}
    return [Finding.model_validate(found)]


def _key_env(model: ModelConfig) -> str | None:
    return model.api_key_env or KEY_ENV.get(model.backend)
