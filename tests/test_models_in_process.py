"""The engine in this process answers as the managed server does, and ends with whoever drives it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cai.config import ManagedConfig, ModelConfig, RunConfig
from cai.embedded import MODEL_DIR
from cai.errors import ConfigError, ProviderError, ServerError
from cai.models import open_model, probe
from cai.models.base import Completion, Request
from cai.models.hosting import KEEPER
from cai.models.in_process import in_process_engine
from cai.models.metrics import read_engines
from cai.serving import opened, serving
from tests.flows.small import small_config
from tests.test_models_managed import FAST_ON_CPU, alive, ask, wait_until

pytestmark = pytest.mark.anyio
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
ASKED = (
    ask("Tell me about the museum.", temperature=1.0, seed=2**62),
    ask("Tell me about the museum.", temperature=0.7, top_p=0.9, seed=5, stop=("the",)),
    ask("A or B?", choices=("A", "B"), temperature=0.0),
    ask("Which?", choices=("the first one", "a second one"), temperature=0.0),
    ask("Is it?", schema_=SCHEMA, temperature=0.0),
    ask("A or B?", choices=("A", "B"), method="samples", temperature=1.0, seed=3),
    ask("word " * 4000),
)
PARENT = """
import asyncio, sys
from pathlib import Path
from cai.config import ManagedConfig
from cai.models.in_process import in_process_engine

async def main():
    config = ManagedConfig.model_validate_json(sys.argv[2])
    async with in_process_engine(sys.argv[1], config, Path(sys.argv[3])) as endpoint:
        print(endpoint, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def cmdline(pid: int) -> str:
    """The command line of a process; "" of one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    """The processes that a process has started and that are still there."""
    with contextlib.suppress(OSError):
        paths = Path(f"/proc/{pid}/task").glob("*/children")
        return [int(child) for path in paths for child in path.read_text().split()]
    return []


def descendants(parent: int) -> list[int]:
    """Processes below a process, but for its keeper and Python's own tracker, which outlive it for a moment."""
    found, open_ = [], [parent]
    while open_:
        below = children(open_.pop())
        open_ += below
        found += below
    return [
        pid for pid in found if not any(name in cmdline(pid) for name in (KEEPER.name, "resource_tracker"))
    ]


async def replies(config: RunConfig, name: str, requests: Sequence[Request]) -> tuple[str, list[object]]:
    """A model's identity and what it says, one request after the other, so that no batch differs."""
    said: list[object] = []
    async with serving(config, [name]) as endpoints, opened(config, name, endpoints) as model:
        for request in requests:
            try:
                completion: Completion = await model.complete(request)
                said.append(completion.model_dump())
            except ProviderError as error:
                said.append(error.kind)
        return model.identity, said


@pytest.fixture
def started() -> Callable[[], list[int]]:
    """The processes below ours that were not there before the test: other tests share a Prefect server."""
    before = set(descendants(os.getpid()))
    return lambda: [pid for pid in descendants(os.getpid()) if pid not in before]


@pytest.mark.slow
async def test_the_same_replies_as_behind_http(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], started: Callable[[], list[int]]
) -> None:
    """Texts, probabilities, usage, identity and errors; nothing of the engine on standard output; all gone after."""
    model = {"backend": "vllm", "model": str(MODEL_DIR), "deadline_s": 60}
    models = {
        "inside": {**model, "managed": {"args": FAST_ON_CPU, "in_process": True}},
        "server": {**model, "managed": {"args": FAST_ON_CPU}},
    }
    changes = {name: {"model": "inside"} for name in ("policy", "critic", "judge")}
    config = RunConfig.model_validate(small_config(tmp_path, "", models=models, **changes))
    environment = dict(os.environ)
    inside = await replies(config, "inside", ASKED)
    assert dict(os.environ) == environment
    assert capfd.readouterr().out == ""
    assert not started()
    assert inside == await replies(config, "server", ASKED)
    assert inside[1][-1] == "context_length"
    assert json.loads(inside[1][4]["text"])["ok"] in (True, False)  # type: ignore[index]
    first, second = read_engines(config.root)
    assert (first["way"], second["way"]) == ("in process", "server")
    assert {name: first[name] for name in first if name not in ("names", "way", "start_s")} == {
        name: second[name] for name in second if name not in ("names", "way", "start_s")
    }
    assert first["requests"] == len(ASKED) - 1


@pytest.mark.slow
async def test_a_dead_engine_is_one_line(tmp_path: Path, started: Callable[[], list[int]]) -> None:
    """Whoever asks a killed engine hears of it at once, and the block's error names the log."""
    config = ModelConfig(backend="vllm", model=str(MODEL_DIR), managed=ManagedConfig(args=FAST_ON_CPU))
    assert config.managed is not None
    with pytest.raises(ServerError, match=r"the vLLM engine died while it was in use: .*log: ") as caught:
        async with in_process_engine(config.model, config.managed, tmp_path / "log") as endpoint:
            model = open_model("policy", config, endpoint=endpoint)
            await probe(model)
            for pid in started():
                if "EngineCore" in cmdline(pid):
                    os.kill(pid, signal.SIGKILL)
            await model.complete(ask("Hello?"))
    assert isinstance(caught.value.__cause__, ProviderError)
    assert caught.value.__cause__.fatal
    assert not started()
    with pytest.raises(ConfigError, match=r"models\.policy: .* its engine runs in another process"):
        open_model("policy", config, endpoint=endpoint)


@pytest.mark.slow
async def test_an_unknown_flag_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """By vLLM's own words, which go to the log and not to the terminal."""
    config = ManagedConfig(args={"frobnicate": True}, in_process=True)
    with pytest.raises(ServerError, match="unrecognized arguments: --frobnicate"):
        async with in_process_engine(str(MODEL_DIR), config, tmp_path / "log"):
            pass
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
async def test_a_slow_start_has_an_end(tmp_path: Path, started: Callable[[], list[int]]) -> None:
    """After start_timeout_s; what was coming up is gone."""
    config = ManagedConfig(args=FAST_ON_CPU, in_process=True, start_timeout_s=1)
    with pytest.raises(ServerError, match="not ready after 1 s; raise start_timeout_s"):
        async with in_process_engine(str(MODEL_DIR), config, tmp_path / "log"):
            pass
    await asyncio.sleep(1)
    assert not started()


@pytest.mark.slow
def test_no_orphans(tmp_path: Path) -> None:
    """kill -9 of the run while the engine comes up ends the engine too."""
    config = ManagedConfig(args=FAST_ON_CPU, in_process=True)
    command = [sys.executable, "-c", PARENT, str(MODEL_DIR), config.model_dump_json(), str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        try:
            wait_until(lambda: any("EngineCore" in cmdline(pid) for pid in descendants(parent.pid)), 300)
            pids = descendants(parent.pid)
        finally:
            parent.kill()
    wait_until(lambda: not alive(pids), 60)
