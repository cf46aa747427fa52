"""Keys from Prefect's Secret blocks: taken where the environment has none, and told of where nobody has them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cai.errors import ConfigError
from cai.models.check import block_name
from tests.flows.small import obliging, small_config, small_run
from tests.wire import wire_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
KEY = "from-a-block-0f3a"


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop that is supported."""
    return "asyncio"


def keyed(folder: Path, endpoint: str) -> dict[str, Any]:
    """Changes to the small run: its model wants the key in OWN_KEY."""
    toy = small_config(folder, endpoint)["models"]["toy"]
    return {"models": {"toy": {**toy, "api_key_env": "OWN_KEY"}}}


@pytest.mark.usefixtures("prefect")
async def test_a_key_comes_from_a_block_where_the_environment_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line names both ways where it is nowhere; a block is used; the environment goes before it."""
    from prefect.blocks.system import Secret

    from flows.generate import generate

    monkeypatch.setitem(os.environ, "OWN_KEY", "")  # restored afterwards, whatever the flow puts there
    async with wire_server(reply=obliging) as server:
        config = small_run(tmp_path, server.openai_url, **keyed(tmp_path, server.openai_url))
        with pytest.raises(ConfigError, match=r"variable OWN_KEY is empty; export .* Secret block own-key,"):
            await generate(config)
        await Secret(value=KEY).asave(block_name("OWN_KEY"))
        await generate(config)
        assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
        monkeypatch.setenv("OWN_KEY", "from-the-environment")
        server.headers.clear()
        await generate(config.model_copy(update={"name": "again"}))
        assert {headers["Authorization"] for headers in server.headers} == {"Bearer from-the-environment"}
