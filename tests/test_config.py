"""Run configs: what is wrong is named with its place, what is right is stored as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cai.config import RunConfig
from cai.config_file import load_config, override_config
from cai.errors import ConfigError

CONFIGS = Path(__file__).parent.parent / "flows" / "configs"
GOOD = """\
name: small
constitution: c.yaml
prompts:
  - path: p.jsonl
models:
  m: {backend: vllm, model: weights, endpoint: "http://localhost:1/v1"}
policy: {model: m}
critic: {model: m}
judge:
  model: m
  threshold: 0.7
"""


def load(tmp_path: Path, text: str, *overrides: str) -> RunConfig:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load_config(path, overrides)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "threshold: 0.7",
            "treshold: 0.7",
            r"run\.yaml:11: judge\.treshold: unknown key; did you mean 'threshold'\?",
        ),
        (
            "threshold: 0.7",
            "threshold: 0.2",
            r"run\.yaml:11: judge\.threshold: .*greater than or equal to 0\.5",
        ),
        (
            "  - path: p.jsonl",
            "  - pth: p.jsonl",
            r"run\.yaml:4: prompts\.0\.pth: unknown key; did you mean 'path'\?",
        ),
        ("policy: {model: m}", "policy: {model: n}", r"policy\.model: 'n' is not under 'models' \(m\)"),
        ("constitution: c.yaml\n", "", r"run\.yaml:\d+: constitution: this key is required"),
        ("backend: vllm", "backend: vlm", r"run\.yaml:6: models\.m\.backend: .*'vllm'"),
        ('endpoint: "http://localhost:1/v1"', "max_concurrency: 4", r"exactly one of 'endpoint'"),
        ("name: small", "name: ../small", r"run\.yaml:1: name: "),
        ("name: small", "name: small\nrecipe: paper", r"needs both 'sft' and 'dpo'"),
        (
            "name: small",
            "name: small\nsft: {}\nevaluate: {grader: judge, sources: [{path: e}]}",
            r"'managed' instead of",
        ),
        (
            "  m: {backend",
            "  sft: {backend: openai, model: x}\n  m: {backend",
            r"'sft' is kept for the trained policy",
        ),
        ("judge:", "judge: [", r"run\.yaml:\d+: not valid YAML"),
        ("  m: {", "  ../m: {backend: openai, model: x}\n  m: {", r"run\.yaml:5: models: '\.\./m' cannot be"),
        ("  m: {", '  "m\\n": {backend: openai, model: x}\n  m: {', r"models: 'm\\n' cannot be part of"),
        ("  model: m\n", "  jury: [m, n]\n", r"judge\.jury: 'n' is not under 'models' \(m\)"),
        ("  model: m\n", "  cascade: [m]\n", r"cascade: \['m'\] needs two or more different models"),
        ("  model: m\n", "  cascade: [m, m]\n", r"cascade: \['m', 'm'\] needs two or more different models"),
        ("  model: m\n", "  model: m\n  jury: [m, n]\n", r"exactly one of 'model', 'jury' and 'cascade'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    """File, line, key and the nearest known key, in one line."""
    assert old in GOOD
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, GOOD.replace(old, new))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["jury", "cascade"])
@pytest.mark.parametrize(
    ("backend", "model", "same"),
    [
        ("vllm", "weights", True),
        ("vllm", "./weights/", True),
        ("vllm", "other", False),
        ("openai", "weights", False),
    ],
)
def test_judges_are_different_models(tmp_path: Path, kind: str, backend: str, model: str, same: bool) -> None:
    """Two names for one model are refused by name, as they would only repeat each other."""
    second = f"  n: {{backend: {backend}, model: {model}, endpoint: http://localhost:2/v1}}\npolicy:"
    text = GOOD.replace("policy:", second).replace("  model: m\n", f"  {kind}: [m, n]\n")
    if not same:
        assert load(tmp_path, text).judge.judges == ("m", "n")
        return
    with pytest.raises(ConfigError, match=rf"judge\.{kind}: 'm' and 'n' are one model \(vllm .*leave it out"):
        load(tmp_path, text)


@pytest.mark.parametrize("text", ["", "[]", "text"])
def test_a_config_is_a_mapping(tmp_path: Path, text: str) -> None:
    """An empty file or a list is told apart from a missing one."""
    with pytest.raises(ConfigError, match="a config is a YAML mapping"):
        load(tmp_path, text)
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / "none.yaml")


def test_overrides(tmp_path: Path) -> None:
    """Dotted keys, YAML values, list indices; mistakes in them are errors as well."""
    config = load(
        tmp_path, GOOD, "judge.threshold=0.9", "prompts.0.tags=[a, b]", "policy.sampling.temperature=null"
    )
    assert config.judge.threshold == 0.9
    assert config.prompts[0].tags == ("a", "b")
    assert config.policy.sampling.temperature is None
    assert override_config(config, ["seed=7"]).seed == 7
    for bad in ("judge", "judge.threshold=2", "judge.model.x=1", "prompts.7.path=x"):
        with pytest.raises(ConfigError):
            load(tmp_path, GOOD, bad)


def test_a_stored_config_reads_back_equal(tmp_path: Path) -> None:
    """What a run stores is what it ran with."""
    config = load(tmp_path, GOOD)
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_are_valid(path: Path) -> None:
    """Every config that we ship loads."""
    assert load_config(path).name


def test_the_deployment_is_the_demo() -> None:
    """The parameters of the deployment are the demo's config under another name."""
    deployment = yaml.safe_load((CONFIGS.parent / "prefect.yaml").read_text())["deployments"][0]
    config = RunConfig.model_validate(deployment["parameters"]["config"])
    assert config.model_copy(update={"name": "demo"}) == load_config(CONFIGS / "embedded.yaml")
