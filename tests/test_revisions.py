"""What a run was made from: commits that names on a hub stand for, kept from the first time on; no pickle is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from cai.conduct import work
from cai.config import ManagedConfig, ModelConfig, RunConfig, SourceConfig
from cai.errors import ConfigError
from cai.models.weights import require_safetensors
from cai.preflight import check_inputs
from cai.runfolder.revisions import FILE, pinned_engine, record
from tests.flows.small import small_run
from tests.hub import Repo, hub_server

FIRST, SECOND = "1" * 40, "2" * 40
ASK = """
import sys
from pathlib import Path
from cai.runfolder.revisions import pinned
for kind, name in (("dataset", "org/data"), ("model", "org/model")):
    print(pinned(Path(sys.argv[1]), kind, name, None))
"""


def asked(folder: Path, environment: dict[str, str]) -> list[str]:
    """What a process of its own, which reads the hub's address at its start, finds."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", ASK, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.slow
def test_a_run_keeps_to_the_commits_of_its_start(tmp_path: Path) -> None:
    """A later upload changes nothing for it; another run gets it; without a hub there is none to know."""
    with hub_server() as hub:
        hub.repos["org/data"] = Repo(private=False, kind="dataset", commits=[FIRST])
        hub.repos["org/model"] = Repo(private=False, commits=[FIRST])
        assert asked(tmp_path / "a", hub.environment("reader")) == [FIRST, FIRST]
        hub.repos["org/data"].commits.append(SECOND)
        assert asked(tmp_path / "a", hub.environment("reader")) == [FIRST, FIRST]
        assert asked(tmp_path / "b", hub.environment("reader")) == [SECOND, FIRST]
        offline = hub.environment("reader", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hub"))
        assert asked(tmp_path / "c", offline) == ["None", "None"]
        refs = tmp_path / "hub" / "hub" / "datasets--org--data" / "refs"
        refs.mkdir(parents=True)
        (refs / "main").write_text(SECOND)
        assert asked(tmp_path / "c", offline) == [SECOND, "None"]


def pinned_run(folder: Path) -> RunConfig:
    """A run over a hub dataset whose commit is settled."""
    changes = {"prompts": [{"dataset": "org/data", "field": "text"}], "shards": 1}
    config = small_run(folder, "http://127.0.0.1:9/v1", **changes)
    config.root.mkdir(parents=True)
    (config.root / FILE).write_text(json.dumps({"dataset org/data@main": FIRST}))
    return config


@pytest.mark.anyio
async def test_a_dataset_is_read_at_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not read again, since what a commit holds does not change."""
    calls: list[Any] = []

    def load(name: str, **options: Any) -> list[dict[str, str]]:
        calls.append((name, options["revision"]))
        return [{"text": "Hello."}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    config = pinned_run(tmp_path)
    assert await work.prompts(config) == 1
    assert await work.prompts(config) == 1
    assert calls == [("org/data", FIRST)]
    assert record(config)["dataset org/data@main"] == FIRST


def test_an_engine_is_started_at_the_commit_and_from_safetensors(tmp_path: Path) -> None:
    """What the config says about either goes first; a folder of this machine is what it is."""
    (tmp_path / FILE).write_text(json.dumps({"model org/m@main": FIRST, "model org/m@v1": SECOND}))
    model = ModelConfig(backend="vllm", model="org/m", managed=ManagedConfig())
    safe = {"load-format": "safetensors", "tokenizer-revision": FIRST, "revision": FIRST}
    assert pinned_engine(tmp_path, model).args == safe
    own = ManagedConfig(args={"revision": "v1", "load_format": "gguf"})
    found = pinned_engine(tmp_path, model.model_copy(update={"managed": own})).args
    assert found == {"load-format": "gguf", "tokenizer-revision": SECOND, "revision": SECOND}
    local = model.model_copy(update={"model": str(tmp_path)})
    assert pinned_engine(tmp_path, local).args == {}


def test_the_record_names_files_weights_and_trusted_code(tmp_path: Path) -> None:
    """By their digests, whatever their paths."""
    config = small_run(tmp_path, "http://127.0.0.1:9/v1")
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    managed = ManagedConfig(args={"trust_remote_code": True})
    model = ModelConfig(backend="vllm", model=str(weights), managed=managed)
    found = record(config.model_copy(update={"models": {"toy": model}}))
    assert found[f"file {config.prompts[0].path}"].startswith("sha256:")
    assert found[f"model {weights}"].startswith("blake2b:")
    assert found[f"code of {weights}"] == "trusted"


def test_weights_in_a_pickle_are_refused(tmp_path: Path) -> None:
    """Of a managed model and of an adapter, before anything starts; beside safetensors they are not loaded."""
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    (weights / "pytorch_model.bin").write_bytes(b"\x80\x04")
    model = {"backend": "vllm", "model": str(weights), "managed": {}}
    config = small_run(tmp_path, "http://127.0.0.1:9/v1", models={"toy": model})
    with pytest.raises(ConfigError, match=r"weights are a pickle \(pytorch_model\.bin\)"):
        check_inputs(config)
    (weights / "model.safetensors").write_bytes(b"")
    check_inputs(config)
    require_safetensors(str(weights))


def test_a_file_has_no_revision() -> None:
    """A knob that would do nothing is refused."""
    with pytest.raises(ValueError, match="'revision' is of a hub dataset"):
        SourceConfig(path="p.jsonl", revision="main")
