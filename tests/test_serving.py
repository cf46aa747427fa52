"""Models on demand: a stand-in for vLLM's server starts with the first call, once, and gives way to the next model."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cai.config import RunConfig
from cai.constitution import load_constitution
from cai.errors import EngineDied, ProviderError, ServerError
from cai.models.base import ChatModel, Request
from cai.models.metrics import counts, engine_lines, read_engines
from cai.report.page import write_report
from cai.report.status import run_status
from cai.report.summary import print_status
from cai.rows import Message
from cai.serving import on_demand, opened, outliving_engines, serving, with_policy
from cai.store import write_json
from tests.flows.small import small_config, write_inputs
from tests.wire import wire_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
STAND_IN = """
import http.server, json, os, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
model = sys.argv[sys.argv.index("--model") + 1]
if model == "broken":
    raise RuntimeError("no room for the weights")
asked = []
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        if self.path == "/metrics":
            figures = [("request_success", len(asked)), ("prompt_tokens", 40 * len(asked)),
                       ("generation_tokens", 2 * len(asked)), ("prefix_cache_queries", 40 * len(asked)),
                       ("prefix_cache_hits", 30 * len(asked))]
            for name, value in figures:
                self.wfile.write(f"# TYPE vllm:{name}_total counter\\n".encode())
                for engine, part in (("0", value // 2), ("1", value - value // 2)):
                    self.wfile.write(f'vllm:{name}_total{{engine="{engine}"}} {part}.0\\n'.encode())
                self.wfile.write(f"# TYPE vllm:{name}_created gauge\\n".encode())
                self.wfile.write(f'vllm:{name}_created{{engine="0"}} 1.7e+09\\n'.encode())
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["messages"][0]["content"] == "die":
            os._exit(3)
        asked.append(body["model"])
        choice = {"index": 0, "message": {"role": "assistant", "content": f"{body['model']} {os.getpid()}"},
                  "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        reply = json.dumps({"model": model, "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """Three models behind managed stand-ins, found before the real package; one of them does not start."""
    package = tmp_path / "site" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "api_server.py").write_text(STAND_IN)
    managed = {"env": {"PYTHONPATH": str(tmp_path / "site")}, "start_timeout_s": 60}
    models: dict[str, Any] = {
        name: {"backend": "vllm", "model": name, "managed": managed, "deadline_s": 5}
        for name in ("toy", "other", "broken")
    }
    return RunConfig.model_validate(small_config(tmp_path, "", models=models))


def say(text: str = "hi") -> Request:
    return Request(messages=(Message(role="user", content=text),), max_tokens=8)


def served(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The models whose server was started since this was last asked."""
    return [line.split()[1] for line in capsys.readouterr().err.splitlines() if line.startswith("serving ")]


async def test_a_server_starts_with_the_first_call_and_once(
    config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """The identity costs nothing; calls at once share a server; another model's ends it, and it comes back anew."""
    async with on_demand(config) as models:
        toy, other = await models.model("toy"), await models.model("other")
        assert (toy.identity, served(capsys)) == ("vllm:toy", [])
        first = {reply.text for reply in await asyncio.gather(*(toy.complete(say()) for _ in range(5)))}
        assert len(first) == 1 and served(capsys) == ["toy"]
        assert (await other.complete(say())).text.startswith("other")
        again = await (await models.model("toy")).complete(say())
        assert again.text.startswith("toy") and {again.text} != first
        assert served(capsys) == ["other", "toy"]


async def test_a_server_that_dies_is_started_again_by_the_next_call(
    config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """The call that lost it fails; the one after it has a new server."""
    async with on_demand(config) as models:
        toy = await models.model("toy")
        first = await toy.complete(say())
        with pytest.raises(ProviderError):
            await toy.complete(say("die"))
        assert (await toy.complete(say())).text != first.text
        assert served(capsys) == ["toy", "toy"]


async def test_all_who_wait_for_a_server_hear_why_it_did_not_start(
    config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """One start, one reason, however many calls wait for it."""
    async with on_demand(config) as models:
        broken = await models.model("broken")
        heard = await asyncio.gather(*(broken.complete(say()) for _ in range(4)), return_exceptions=True)
        assert all(isinstance(error, ServerError) for error in heard)
        assert len({str(error) for error in heard}) == 1 and "no room for the weights" in str(heard[0])
        assert served(capsys) == ["broken"]


async def test_shards_share_one_client_and_one_bound(tmp_path: Path) -> None:
    """Connections stay open between shards, calls are bounded over all of them, and the last shard closes."""
    async with wire_server(delay_s=0.02) as server:
        toy = {"backend": "vllm", "model": "toy", "endpoint": server.url, "max_concurrency": 3}
        config = RunConfig.model_validate(small_config(tmp_path, server.url, models={"toy": toy}))

        async def shard(number: int) -> ChatModel:
            async with opened(config, "toy", {}) as model:
                for turn in range(4):
                    await asyncio.gather(*(model.complete(say(f"{number} {turn} {n}")) for n in range(4)))
                return model

        models = await asyncio.gather(*(shard(number) for number in range(5)))
        assert len(set(map(id, models))) == 1
        assert (server.calls, server.peak, server.connections) == (80, 3, 3)
        async with opened(config, "toy", {}) as later:
            assert later is not models[0] and (await later.complete(say())).text
        with pytest.raises(RuntimeError, match="closed"):
            await models[0].complete(say("a client that nobody has open"))


def with_adapter(config: RunConfig, folder: Path) -> RunConfig:
    """The config with a model `tuned`: a LoRA adapter on top of the model `toy`."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 12, "rank_pattern": {"q_proj": 20}}')
    (folder / "adapter_model.safetensors").write_bytes(b"low rank")
    tuned = config.models["toy"].model_copy(update={"adapter": str(folder)})
    return config.model_copy(update={"models": {**config.models, "tuned": tuned}})


async def test_a_base_and_its_adapter_share_one_engine(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One server with both names; the adapter is asked for by its own, and has an identity of its own."""
    config = with_adapter(config, tmp_path / "adapter")
    async with serving(config, ["toy", "other", "tuned"]) as endpoints:
        assert endpoints["toy"] == endpoints["tuned"] != endpoints["other"]
        async with opened(config, "toy", endpoints) as toy, opened(config, "tuned", endpoints) as tuned:
            assert (toy.identity, tuned.identity[:9]) == ("vllm:toy", "vllm:toy+")
            base, low = await toy.complete(say()), await tuned.complete(say())
            assert base.text.split()[1] == low.text.split()[1]
            assert (base.text.split()[0], low.text.split()[0]) == ("toy", str(tmp_path / "adapter"))
    assert served(capsys) == ["toy,", "other"]
    engines = read_engines(config.root)
    assert [engine["names"] for engine in engines] == [["other"], ["toy", "tuned"]]
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"trained on")
    async with opened(config, "tuned", {"tuned": "http://127.0.0.1:9/v1"}) as later:
        assert later.identity != tuned.identity
    assert with_policy(config, "sft", tmp_path).models["sft"].adapter is None


async def test_base_and_adapter_on_demand(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first call to either starts the engine of both."""
    config = with_adapter(config, tmp_path / "adapter")
    async with on_demand(config) as models:
        tuned, toy = await models.model("tuned"), await models.model("toy")
        pids = {reply.text.split()[1] for reply in (await tuned.complete(say()), await toy.complete(say()))}
        assert len(pids) == 1 and served(capsys) == ["toy,"]


async def test_what_an_engine_did_is_kept(config: RunConfig, tmp_path: Path) -> None:
    """Each serving adds an entry, summed over the engine's replicas, whatever ends it; status and report show it."""
    write_inputs(tmp_path)
    async with serving(config, ["toy"]) as endpoints, opened(config, "toy", endpoints) as toy:
        await asyncio.gather(*(toy.complete(say(str(n))) for n in range(5)))
    with pytest.raises(ZeroDivisionError):
        async with serving(config, ["toy"]) as endpoints, opened(config, "toy", endpoints) as toy:
            await toy.complete(say())
            raise ZeroDivisionError
    first, second = read_engines(config.root)
    assert first["start_s"] > 0  # type: ignore[operator]
    assert [(e["requests"], e["prompt_tokens"], e["prefix_hits"]) for e in (first, second)] == [
        (5, 200, 150),
        (1, 40, 30),
    ]
    (line,) = engine_lines([first | {"start_s": 1.26}, second | {"start_s": 1.0}])
    assert line == (
        "toy: started 2 times in 2.3 s (server), 6 requests, 12 tokens generated, "
        "prefix cache 75% of 240 prompt tokens"
    )
    write_json(config.root / "config.json", config)
    write_json(config.root / "constitution.json", load_constitution(config.constitution))
    shown = io.StringIO()
    print_status(run_status(config.root), Console(file=shown, width=200))
    assert "engine   toy: started 2 times in " in shown.getvalue()
    assert "Engine toy: started 2 times in " in write_report(config).read_text()
    assert counts("process_cpu_seconds_total 3.0\n") is counts("<html>") is None


@pytest.mark.parametrize(("steady_s", "deaths", "starts"), [(900.0, 3, 4), (900.0, 4, 4), (0.0, 9, 10)])
async def test_an_engine_that_dies_in_use_is_started_again(
    steady_s: float, deaths: int, starts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times where it does not last, as often as it takes where it does; then the error is the engine's own."""
    monkeypatch.setattr("cai.serving.STEADY_S", steady_s)
    begun: list[int] = []

    async def work() -> str:
        begun.append(len(begun))
        if len(begun) <= deaths:
            raise EngineDied("toy: the vLLM server died while it was in use: no memory (log: x)")
        return "done"

    if deaths < starts:
        assert await outliving_engines(work) == "done"
    else:
        with pytest.raises(ServerError, match=r"no memory .*; it was started 3 times again") as caught:
            await outliving_engines(work)
        assert not isinstance(caught.value, EngineDied), "nobody starts it once more"
    assert len(begun) == starts
