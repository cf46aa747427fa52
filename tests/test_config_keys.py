"""Keys that were put into a config by mistake: refused in one line that does not repeat them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from cai.config import RunConfig
from cai.config_file import load_config, override_config
from cai.errors import ConfigError
from cai.masked import masked
from tests.test_config import GOOD

SECRET = "sk-proj-Ab3dEf6hIj9kLm2n"
VLLM = {"backend": "vllm", "model": "weights", "endpoint": "http://localhost:1/v1"}
MANAGED = {"backend": "vllm", "model": "weights"}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (VLLM | {"api_key_env": SECRET}, "names the environment variable"),
        (VLLM | {"api_key_env": "AKIAIOSFODNN7EXAMPLE" + SECRET}, "names the environment variable"),
        (VLLM | {"api_key_env": "AKIAIOSFODNN7EXAMPLE"}, "names the environment variable"),
        (VLLM | {"endpoint": f"http://me:{SECRET}@host/v1"}, "login or a key in it"),
        (VLLM | {"endpoint": f"http://host/v1?api_key={SECRET}"}, "login or a key in it"),
        (MANAGED | {"endpoints": [f"http://{SECRET}@host/v1", "http://b/v1"]}, "login or a key in it"),
        (MANAGED | {"managed": {"env": {"HF_TOKEN": SECRET}}}, "HF_TOKEN: a secret would be written down"),
        (MANAGED | {"managed": {"args": {"api-key": SECRET}}}, "api-key: a secret would be written down"),
        (MANAGED | {"managed": {"args": {"hf_token": SECRET}}}, "hf_token: a secret would be written down"),
        (
            MANAGED | {"managed": {"env": {"FLAGS": SECRET}}},
            "models.m.managed.env.FLAGS: holds what looks like",
        ),
        (VLLM | {"api_key": SECRET}, "unknown key"),
    ],
)
def test_a_key_in_a_model_is_refused(model: dict[str, Any], words: str, tmp_path: Path) -> None:
    """Whichever way the config comes; also pydantic's own message, which Prefect tells, does not hold it."""
    data = yaml.safe_load(GOOD) | {"models": {"m": model}}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(path)
    with pytest.raises(ValidationError) as raised:
        RunConfig.model_validate(data)
    for told in (str(caught.value), str(raised.value)):
        assert "sk-proj" not in told and "AKIA" not in told
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ["name", "prompts.0.field", "judge.calibration"])
def test_the_keys_of_known_services_are_refused_anywhere(where: str, tmp_path: Path) -> None:
    """With the place, in one line."""
    path = tmp_path / "run.yaml"
    path.write_text(GOOD)
    with pytest.raises(ConfigError, match=f"{where}: holds what looks like the key") as caught:
        override_config(load_config(path), [f"{where}={SECRET}"])
    assert "sk-proj" not in str(caught.value)


def test_a_token_for_the_hub_is_no_training_option(tmp_path: Path) -> None:
    """The plan of a training is written down; a token that is one in a tokenizer's sense is an option like others."""
    path = tmp_path / "run.yaml"
    path.write_text(GOOD + "sft: {args: {hub_token: abcdef}}\n")
    with pytest.raises(
        ConfigError, match="hub_token: a secret would be written down with the config; export it"
    ):
        load_config(path)
    path.write_text(GOOD + 'sft: {args: {eos_token: "<|im_end|>"}}\n')
    assert load_config(path).sft is not None


def test_what_is_no_key_is_taken(tmp_path: Path) -> None:
    """Names of variables and flags that sound alike."""
    model = MANAGED | {
        "managed": {
            "args": {
                "max-num-batched-tokens": 8,
                "ssl-keyfile": "/x.pem",
                "hf-token": True,
                "tokenizer": "t",
            },
            "env": {"TOKENIZERS_PARALLELISM": "false", "NCCL_DEBUG": "INFO", "HF_TOKEN_PATH": "/x"},
        }
    }
    for one in (
        model,
        VLLM | {"api_key_env": "MY_TEAMS_KEY_2"},
        VLLM | {"endpoint": "https://host/v1?region=eu"},
    ):
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(GOOD) | {"models": {"m": one}}))
        load_config(path)


def test_secrets_of_the_environment_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, wherever they stand in a text; short values and variables that are no secrets stay."""
    monkeypatch.setenv("OTHER_TOKEN", "0123456789")
    monkeypatch.setenv("SHORT_KEY", "key")
    monkeypatch.setenv("KEYBOARD", "abcdefghijkl")
    assert masked("a key x0123456789y abcdefghijkl") == "a key x***y abcdefghijkl"
