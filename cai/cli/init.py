"""`cai init`: a commented run config for the chosen providers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from cai.cli.common import raise_user, tell

Provider = Literal["vllm", "openai", "anthropic", "embedded"]
WHO = {"policy": "answers the prompts", "judge": "labels the pairs"}
File = Annotated[Path, typer.Argument(metavar="FILE", help="The config to write, e.g. my-run.yaml.")]
Policy = Annotated[Provider | None, typer.Option(help="Who answers the prompts.")]
Judge = Annotated[Provider | None, typer.Option(help="Who labels the pairs.")]
PolicyModel = Annotated[str | None, typer.Option(metavar="NAME", help="Its model; else a default.")]
JudgeModel = Annotated[str | None, typer.Option(metavar="NAME", help="Its model; else a default.")]
Endpoint = Annotated[
    str | None,
    typer.Option(metavar="URL", help="vllm: a server that runs already, e.g. http://localhost:8000/v1."),
]
Prompts = Annotated[
    Path | None, typer.Option(metavar="FILE", help="JSONL, CSV, Parquet or text; else the embedded prompts.")
]
Constitution = Annotated[
    str | None, typer.Option(metavar="NAME|FILE", help="One of constitutions/, or a file; else hhh, or toy.")
]
Train = Annotated[bool, typer.Option("--train", help="Also train SFT and DPO models.")]
Force = Annotated[bool, typer.Option("--force", help="Write over a file that is there.")]


def init(
    path: File,
    policy: Policy = None,
    judge: Judge = None,
    policy_model: PolicyModel = None,
    judge_model: JudgeModel = None,
    endpoint: Endpoint = None,
    prompts: Prompts = None,
    constitution: Constitution = None,
    train: Train = False,
    force: Force = False,
) -> None:
    """Write a commented config for the chosen providers; asks for those that are not named, on a terminal."""
    if path.exists() and not force:
        raise_user(f"{path}: is there already; --force writes over it")
    chosen = {role: given or _ask(role) for role, given in (("policy", policy), ("judge", judge))}
    from cai.models.check import KEY_ENV
    from cai.starter import Wanted, write_starter

    wanted = Wanted(
        policy=chosen["policy"], judge=chosen["judge"], policy_model=policy_model, judge_model=judge_model,
        endpoint=endpoint, prompts=prompts, constitution=constitution, train=train,
    )  # fmt: skip
    config = write_starter(path, wanted, force)
    tell(f"wrote {path}: {', '.join(f'{name} {model.model}' for name, model in config.models.items())}")
    tell(f"constitution {config.constitution}, prompts {config.prompts[0].path}")
    missing = {KEY_ENV[one] for one in chosen.values() if one in KEY_ENV and not os.environ.get(KEY_ENV[one])}
    for env in sorted(missing):
        tell(f"set the environment variable {env} to your key first")
    tell(f"next: cai doctor {path}, cai plan {path}, cai run {path}")


def _ask(role: str) -> Provider:
    """Ask for a provider; without a terminal to ask on, exit with status 2."""
    from cai.starter import PROVIDERS

    names = ", ".join(PROVIDERS)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise_user(f"--{role}: say who {WHO[role]}: {names}")

    def known(answer: str) -> Provider:
        if answer not in PROVIDERS:
            raise typer.BadParameter(f"one of {names}")
        return answer

    found: Provider = typer.prompt(
        f"Who {WHO[role]} ({names})", default="vllm", value_proc=known, show_default=True
    )
    return found
