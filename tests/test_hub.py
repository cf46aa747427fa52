"""Pushing to a hub: the real huggingface_hub client against a loopback hub, and what is refused before it."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cai.embedded import MODEL_DIR
from cai.errors import ConfigError
from cai.hub import check_folder, push_folder
from cai.train.plan import PLAN, REPORT
from tests.hub import Hub, hub_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """One hub for all tests; each has a repository of its own."""
    with hub_server() as found:
        yield found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with one complete model."""
    folder = tmp_path / "run" / "models" / "dpo"
    shutil.copytree(MODEL_DIR, folder)
    (folder / PLAN).write_text(yaml.safe_dump({"kind": "dpo"}))
    (folder / REPORT).write_text("{}")
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n# card\n")
    return tmp_path / "run"


def push(
    hub: Hub, run: Path, *options: str, token: str | None = "writer", **more: str
) -> subprocess.CompletedProcess[str]:
    """`cai push RUN …` in a process of its own, as the client reads its environment once."""
    command = [sys.executable, "-m", "cai", "push", str(run), "--model", "dpo", *options]
    return subprocess.run(
        command, env=hub.environment(token, **more), capture_output=True, text=True, check=False, timeout=120
    )


def test_a_model_arrives_as_it_is(hub: Hub, run: Path) -> None:
    """Private, byte for byte, under the revision that is told; pushed again, what is gone here is gone there."""
    shutil.copyfile(MODEL_DIR / "model.safetensors", run / "models" / "dpo" / "extra.safetensors")
    first = push(hub, run, "--to", "org/one", "--json")
    assert first.returncode == 0, first.stderr
    repo = hub.repos["org/one"]
    said = json.loads(first.stdout)
    assert said == {
        "url": f"{hub.url}/org/one/tree/{repo.commits[-1]}", "commit": repo.commits[-1], "private": True,
    }  # fmt: skip
    folder = run / "models" / "dpo"
    assert repo.private and repo.kind == "model"
    assert repo.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "extra.safetensors").unlink()
    again = push(hub, run, "--to", "org/one")
    assert again.returncode == 0, again.stderr
    assert len(repo.commits) == 3 and repo.commits[-1] in again.stdout and "(private)" in again.stdout
    assert "extra.safetensors" not in repo.files and repo.files["config.json"]


def test_public_only_when_said(hub: Hub, run: Path) -> None:
    """A repository that is public already takes nothing that was to be private."""
    assert push(hub, run, "--to", "org/open", "--public").returncode == 0
    assert not hub.repos["org/open"].private
    commits = len(hub.repos["org/open"].commits)
    refused = push(hub, run, "--to", "org/open")
    assert refused.returncode == 2
    assert "public repository" in refused.stderr and len(hub.repos["org/open"].commits) == commits


@pytest.mark.parametrize(("token", "why"), [("hf_unknown", "(401)"), ("reader", "(403)")])
def test_a_token_that_may_not_write(hub: Hub, run: Path, token: str, why: str) -> None:
    """One line that says what is wrong with the token, without the token, though the hub says it."""
    done = push(hub, run, "--to", "org/two", token=token)
    assert done.returncode == 1 and "org/two" not in hub.repos
    assert len(done.stderr.strip().splitlines()) == 1 and why in done.stderr
    assert "hf_unknown" not in done.stderr


def test_a_hub_that_fails(hub: Hub, run: Path) -> None:
    """The hub's words reach the terminal as one line that cannot steer it."""
    hub.spoilt = 500
    try:
        done = push(hub, run, "--to", "org/three")
    finally:
        hub.spoilt = None
    assert done.returncode == 1 and "refused with 500" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "\x1b" not in done.stderr


def test_nobody_listens(run: Path) -> None:
    """A hub that cannot be reached is one line as well."""
    done = push(Hub(url="http://127.0.0.1:9"), run, "--to", "org/x")
    assert done.returncode == 1 and "cannot be reached" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_offline(hub: Hub, run: Path) -> None:
    """The client's own word for it, and what to do."""
    done = push(hub, run, "--to", "org/offline", HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and "HF_HUB_OFFLINE is set" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "org/offline" not in hub.repos


def test_no_token(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked without a token of the environment."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="HF_TOKEN is not set"):
        push_folder(run / "models" / "dpo", "org/x", "model", private=True)


@pytest.mark.parametrize("repo", ["name", "a/b/c", "org/", "../x", "org/na me", "/x"])
def test_names_that_no_hub_has(run: Path, repo: str) -> None:
    """A repository is org/name."""
    with pytest.raises(ConfigError, match="not the name of a repository"):
        push_folder(run / "models" / "dpo", repo, "model", private=True)


def _no_report(folder: Path) -> None:
    (folder / REPORT).unlink()


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _torn(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1])


def _no_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _named(folder: Path) -> None:
    (folder / "training_args.bin").write_bytes(b"")


def _disguised(folder: Path) -> None:
    (folder / "notes.json").write_bytes(pickle.dumps({"a": 1}))


def _archive(folder: Path) -> None:
    with zipfile.ZipFile(folder / "notes.txt", "w") as archive:
        archive.writestr("notes/data.pkl", b"")


def _link(folder: Path) -> None:
    (folder / "notes.txt").symlink_to(folder.parent.parent)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_no_report, "training has not ended"),
        (_no_config, "no config.json"),
        (_no_weights, "not a complete model"),
        (_torn, "bytes of"),
        (_no_shard, "not a complete model"),
        (_named, "runs code"),
        (_disguised, "a pickle"),
        (_archive, "a pickle in an archive"),
        (_link, "leads out of the folder"),
    ],
)
def test_refused_before_anything_is_sent(run: Path, spoil: object, why: str) -> None:
    """What is torn, unfinished or runs code stays here."""
    folder = run / "models" / "dpo"
    check_folder(folder, "model")
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(ConfigError, match=why):
        check_folder(folder, "model")


def test_a_dataset(hub: Hub, tmp_path: Path) -> None:
    """A folder of rows needs no weights, and goes to the hub's datasets; an empty one is refused."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    with pytest.raises(ConfigError, match="nothing to push"):
        check_folder(folder, "dataset")
    (folder / "train.jsonl").write_text('{"prompt": "a"}\n')
    call = "import sys; from pathlib import Path; from cai.hub import push_folder; "
    call += "print(push_folder(Path(sys.argv[1]), 'org/rows', 'dataset', private=True).url)"
    environment = hub.environment("writer", HF_HUB_DISABLE_XET="")  # the client's other way: in a stream
    for name in ("train.jsonl", "more.jsonl"):
        done = subprocess.run(
            [sys.executable, "-c", call, str(folder)], env=environment,
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        repo = hub.repos["org/rows"]
        assert done.stdout.strip() == f"{hub.url}/datasets/org/rows/tree/{repo.commits[-1]}"
        assert repo.kind == "dataset" and set(repo.files) == {name}
        (folder / name).rename(folder / "more.jsonl")
