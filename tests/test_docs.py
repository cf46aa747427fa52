"""The documentation: what it shows is what the command prints, what it names is there."""

from __future__ import annotations

import asyncio
import itertools
import re
import shlex
from pathlib import Path

import pytest
import yaml

from cai.config import ModelConfig, RayConfig
from cai.config_file import load_config
from tests.small_cli import ROOT, cai

DOCS = sorted((ROOT / "docs").rglob("*.md"))


def blocks(path: Path, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", path.read_text(), re.S)


def test_the_worked_example_is_what_the_command_prints() -> None:
    """Every figure of the example, to the character."""
    (shown,) = (block for block in blocks(ROOT / "docs/capacity.md", "console") if "capacity of" in block)
    command, _, output = shown.replace("\\\n", " ").partition("\ncapacity of")
    words = shlex.split(command.removeprefix("$ "))
    assert words[0] == "cai"
    done = asyncio.run(cai(*words[1:], COLUMNS="100"))
    assert done.status == 0, done.err
    printed = "\n".join(line.rstrip() for line in done.out.splitlines())
    assert printed == f"capacity of{output}".rstrip("\n")


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_files_and_links_are_there(path: Path) -> None:
    """Files of the repository by their path, and pages by their link."""
    text = path.read_text()
    own = re.sub(r"https?://\S+", "", text)
    named = set(re.findall(r"(?<![\w/])(?:flows|cai|constitutions|docs|tests)/[\w./-]+\.\w+", own))
    assert all((ROOT / name).is_file() for name in named), named
    links = re.findall(r"\]\(([^)#]+?)\)", text)
    assert all((path.parent / link).is_file() for link in links if "://" not in link)


def test_files_of_the_pools_are_there() -> None:
    """Those that the tables of the page on scale name."""
    text = (ROOT / "docs/scale-out.md").read_text()
    tables = re.findall(r"^\| `((?:kubernetes|slurm)?/?[\w.-]+)` \|", text, re.M)
    assert tables
    assert all(
        (ROOT / "flows/pools" / name).exists() or (ROOT / "flows/pools/slurm" / name).exists()
        for name in tables
    )


def test_configs_of_the_page_on_scale_are_configs() -> None:
    """Models and sections as they would stand in a run config."""
    for block in blocks(ROOT / "docs/scale-out.md", "yaml"):
        found = yaml.safe_load(block)
        if "ray" in found:
            assert RayConfig.model_validate(found["ray"]).workers == 8
            continue
        for model in found["models"].values():
            made = ModelConfig.model_validate(model)
            assert made.managed or len(made.endpoints) == 2


def test_overrides_of_the_page_on_scale_are_taken() -> None:
    """The config that is deployed to Kubernetes has the engines, and the key that they ask for."""
    (block,) = (text for text in blocks(ROOT / "docs/scale-out.md", "text") if "kubectl" in text)
    (command,) = (line for line in block.replace("\\\n", " ").splitlines() if "cai deploy" in line)
    words = shlex.split(command)
    overrides = [value for flag, value in itertools.pairwise(words) if flag == "--set"]
    policy = load_config(ROOT / "flows/configs/hosted-judge.yaml", overrides).models["policy"]
    assert (policy.endpoint, policy.api_key_env, len(policy.endpoints)) == (None, "VLLM_API_KEY", 2)
