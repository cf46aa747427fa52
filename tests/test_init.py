"""`cai init`: what it writes is a config that the project itself accepts, for every choice of providers."""

from __future__ import annotations

import itertools
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cai.models.check import KEY_ENV
from cai.models.cost import default_model, list_price
from cai.plan.make import make_plan
from cai.starter import PROVIDERS, Provider, Wanted, scalar, write_starter
from tests.small_cli import ROOT, environment, run_cai

ENDPOINT = "http://127.0.0.1:9/v1"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Three prompts of one's own."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(f'{{"prompt": "Tell me about {i}."}}\n' for i in range(3)))
    return path


@pytest.fixture
def constitution(tmp_path: Path) -> Path:
    """One principle without a test, so that no judge can be qualified by it."""
    path = tmp_path / "constitution.yaml"
    path.write_text(
        'schema: 1\nname: own\nversion: "1"\nprinciples:\n  - {id: kind, statement: Be kind to whoever asks.}\n'
    )
    return path


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> str:
    """A key for every provider, and the repository as the folder that commands are called in."""
    monkeypatch.chdir(ROOT)
    for env in KEY_ENV.values():
        monkeypatch.setenv(env, "sk-very-secret")
    return "sk-very-secret"


@pytest.mark.parametrize(("policy", "judge"), list(itertools.product(PROVIDERS, PROVIDERS)))
@pytest.mark.slow
def test_every_choice_can_be_planned(
    policy: Provider, judge: Provider, tmp_path: Path, prompts: Path, constitution: Path, keys: str
) -> None:
    """Own and embedded prompts, engines that the run starts and a server that runs, data alone and trainings."""
    trains, served = policy in ("vllm", "embedded"), "vllm" in (policy, judge)
    own = Wanted(policy, judge, prompts=prompts, constitution=str(constitution))
    choices = [own, Wanted(policy, judge)] if policy == judge else [own]
    choices += [own._replace(train=True)] if trains else []
    choices += [own._replace(endpoint=ENDPOINT)] if served else []
    for number, wanted in enumerate(choices):
        path = tmp_path / f"{number}.yaml"
        config = write_starter(path, wanted)
        config = config.model_copy(update={"outputs": str(tmp_path / "outputs")})
        assert keys not in path.read_text()
        assert config.models[config.judge.judges[0]].backend == ("vllm" if judge == "embedded" else judge)
        assert make_plan(config).calls.expected > 10
        assert config.judge.require_qualification is (wanted.constitution is None)
        assert bool(config.trained) is wanted.train
        assert any(model.endpoint for model in config.models.values()) is (wanted.endpoint is not None)


@pytest.mark.parametrize(("policy", "judge"), [("vllm", "openai"), ("embedded", "embedded")])
def test_comments_say_what_lines_do(policy: Provider, judge: Provider, tmp_path: Path, keys: str) -> None:
    """Every section, and every value but the plain ones of names, ways and trainings."""
    path = tmp_path / "run.yaml"
    write_starter(path, Wanted(policy, judge, train=True))
    clear: tuple[str, ...] = (
        "model:",
        "- path:",
        "sampling:",
        "args:",
        "lora:",
        "outputs:",
        "policy:",
        "judge:",
        "tiny:",
    )
    clear += ("models:", "pairs:", "sft:", "dpo:", "grader:", "sources:")
    bare = [line for line in path.read_text().splitlines() if line and "#" not in line]
    assert [line for line in bare if not line.strip().startswith(clear)] == []


def test_defaults_have_a_price() -> None:
    """What `cai init` writes for a hosted provider can be planned in dollars."""
    for role, provider in itertools.product(("policy", "judge"), KEY_ENV):
        assert list_price(default_model(role, provider)) is not None


def test_it_never_writes_over_a_file(tmp_path: Path) -> None:
    """Not without --force; and says so in one line."""
    path = tmp_path / "run.yaml"
    path.write_text("mine\n")
    words = ("init", path, "--policy", "vllm", "--judge", "anthropic", "--judge-model", "claude-opus-5-5")
    done = run_cai(*words)
    assert (done.status, path.read_text()) == (2, "mine\n")
    assert done.err.strip() == f"error: {path}: is there already; --force writes over it"
    done = run_cai(*words, "--force")
    assert done.status == 0 and "claude-opus-5-5" in path.read_text()
    assert "ANTHROPIC_API_KEY to your key first" in done.out and f"cai doctor {path}" in done.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy", "vllm"], "error: --judge: say who labels the pairs: vllm, openai, anthropic, embedded"),
        (["--policy", "vllm", "--judge", "vllm", "--prompts", "none.jsonl"], "none.jsonl"),
        (["--policy", "vllm", "--judge", "vllm", "--constitution", "none"], "clinical-information"),
        (["--policy", "openai", "--judge", "vllm", "--train"], "no weights"),
        (["--policy", "openai", "--judge", "openai", "--endpoint", ENDPOINT], "no role is vllm"),
        (["--policy", "embedded", "--judge", "vllm", "--policy-model", "x"], "comes with the code"),
    ],
)
def test_a_mistake_is_one_line(options: list[str], message: str, tmp_path: Path) -> None:
    """Nothing is written, and exit status 2."""
    path = tmp_path / "run.yaml"
    done = run_cai("init", path, *options)
    assert (done.status, len(done.err.strip().splitlines())) == (2, 1), done.err
    assert message in done.err and not path.exists()


def test_a_prompt_file_without_prompts(tmp_path: Path) -> None:
    """Is told before a config points to it."""
    (tmp_path / "empty.jsonl").touch()
    path, empty = tmp_path / "run.yaml", tmp_path / "empty.jsonl"
    done = run_cai("init", path, "--policy", "vllm", "--judge", "vllm", "--prompts", empty)
    assert done.status == 2 and "empty.jsonl" in done.err and not path.exists()


def test_on_a_terminal_it_asks(tmp_path: Path) -> None:
    """For the providers that are not named, again after an answer that is none of them."""
    ours, theirs = pty.openpty()
    path = tmp_path / "run.yaml"
    command = [sys.executable, "-m", "cai", "init", str(path)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        os.write(ours, b"nobody\nvllm\nembedded\n")
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # the other side is closed
            pass
    os.close(ours)
    assert process.returncode == 0, shown
    assert set(yaml.safe_load(path.read_text())["models"]) == {"policy", "tiny"}
    assert b"one of vllm, openai, anthropic, embedded" in shown


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_one_scalar(text: str) -> None:
    """Names and paths are the user's own: quotes, comments, newlines and control characters included."""
    line = f"key: {scalar(text)}   # comment"
    assert "\n" not in line and yaml.safe_load(line) == {"key": text}
