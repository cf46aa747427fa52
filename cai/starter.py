"""A first run config: commented, for the chosen providers, and valid before it is written."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cai.config import NAME, RunConfig, SourceConfig
from cai.config_file import load_config
from cai.constitution import load_constitution
from cai.embedded import MODEL_DIR
from cai.errors import ConfigError
from cai.models.check import KEY_ENV
from cai.models.cost import default_model
from cai.rows import Drop
from cai.sources import read_prompts

Provider = Literal["vllm", "openai", "anthropic", "embedded"]
PROVIDERS: tuple[Provider, ...] = get_args(Provider)
PACKAGE = Path(__file__).parent
SHIPPED = PACKAGE.parent / "constitutions"
EMBEDDED_LIMIT = 200  # of the 1,200 prompts that come with the code: a first run of minutes
SAFE = re.compile(r"[A-Za-z0-9/]([A-Za-z0-9 ./_:-]*[A-Za-z0-9_/-])?")  # and no ": " or " #": needs no quotes


class Wanted(NamedTuple):
    """What the config is to be about. None: the default for the providers; see `cai init --help`."""

    policy: Provider
    judge: Provider
    policy_model: str | None = None
    judge_model: str | None = None
    endpoint: str | None = None
    prompts: Path | None = None
    constitution: str | None = None
    train: bool = False


class Role(NamedTuple):
    """A model of the config as one of its roles. `steady`: temperature of a critic or a judge."""

    name: str
    role: str
    provider: Provider
    model: str
    endpoint: str | None

    @property
    def temperature(self) -> str:
        """Hosted models take none: Claude never, and OpenAI's reasoning families neither."""
        if self.provider in KEY_ENV:
            return "null"
        return "0.8" if self.provider == "embedded" else "1.0"

    @property
    def steady(self) -> str:
        """For a role that is to say the same again."""
        return "null" if self.provider in KEY_ENV else "0.0"

    @property
    def reply_tokens(self) -> int:
        """Most tokens of a reply; the thoughts of a reasoning model count."""
        return {"embedded": 80, "openai": 4096}.get(self.provider, 1024)

    @property
    def verdict_tokens(self) -> int:
        """Most tokens of a verdict: one letter where it is constrained, else a small JSON object."""
        return {"openai": 2048, "anthropic": 256}.get(self.provider, 4)


def write_starter(path: Path, wanted: Wanted, force: bool = False) -> RunConfig:
    """Write the config and return it as it will be loaded.

    Raises ConfigError for a file that is there (without `force`), a prompt file without prompts, and choices that
    do not go together; ConstitutionError for a constitution that cannot be used.
    """
    if path.exists() and not force:
        raise ConfigError(f"{path}: is there already; --force writes over it")
    text = starter(path, wanted)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "config.yaml"
        draft.write_text(text, encoding="utf-8")
        config = load_config(draft)
    with _written(path):
        path.write_text(text, encoding="utf-8")
    return config


def starter(path: Path, wanted: Wanted) -> str:
    """The text of the config for a file of that name. Raises as `write_starter` does."""
    models = _roles(wanted)
    policy, judge = models[0], models[-1]
    if wanted.train and (policy.provider in KEY_ENV or policy.endpoint):
        where = f"behind {wanted.endpoint}" if policy.endpoint else f"of {policy.provider}"
        raise ConfigError(
            f"--train: a policy {where} has no weights here; take --policy vllm without --endpoint"
        )
    embedded = "embedded" in (policy.provider, judge.provider)
    alone = (
        policy.provider == "embedded" and judge.provider != "embedded"
    )  # it only answers; the judge criticises
    constitution = _constitution(wanted.constitution or ("toy" if embedded else "hhh"))
    principles = load_constitution(constitution).principles
    environment = Environment(
        loader=FileSystemLoader(PACKAGE), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"yaml": scalar, "ljust": lambda text, width: text.ljust(width - 1) + " "}
    return environment.get_template("starter.yaml.j2").render(
        path=scalar(str(path)),
        name=_name(path),
        keys=[KEY_ENV[provider] for provider in KEY_ENV if provider in (policy.provider, judge.provider)],
        constitution=constitution,
        tested=any(principle.tests for principle in principles),
        dialect=_shown(PACKAGE / "embedded" / "prompts") if judge.provider == "embedded" else None,
        prompts=str(wanted.prompts) if wanted.prompts else _shown(PACKAGE / "embedded/data/generate.jsonl"),
        limit=_limit(wanted.prompts),
        held_out=_shown(PACKAGE / "embedded/data/evaluate.jsonl"),
        models=models,
        policy=policy,
        critic=judge if alone else policy,
        judge=judge,
        train=wanted.train,
    )


def scalar(text: str) -> str:
    """A text as a YAML scalar on one line, quoted where it could be read as anything else."""
    if SAFE.fullmatch(text) and ": " not in text and yaml.safe_load(text) == text:
        return text
    return yaml.safe_dump(text, default_style='"', width=float("inf"), allow_unicode=True).strip()


def _roles(wanted: Wanted) -> list[Role]:
    """The policy, and the judge where it is another model."""
    for flag, given, provider in (
        ("--policy-model", wanted.policy_model, wanted.policy),
        ("--judge-model", wanted.judge_model, wanted.judge),
    ):
        if given is not None and provider == "embedded":
            raise ConfigError(f"{flag} {given}: the embedded model is the one that comes with the code")
    if wanted.endpoint is not None and "vllm" not in (wanted.policy, wanted.judge):
        raise ConfigError(f"--endpoint {wanted.endpoint}: is of a vLLM server, and no role is vllm")
    if wanted.policy == wanted.judge == "embedded":
        return [Role("tiny", "policy", "embedded", _shown(MODEL_DIR), None)]
    policy = _role("policy", wanted.policy, wanted.policy_model, wanted.endpoint)
    shared = policy.model if policy.endpoint else None  # one server, one model
    return [policy, _role("judge", wanted.judge, wanted.judge_model or shared, wanted.endpoint)]


def _role(role: str, provider: Provider, named: str | None, endpoint: str | None) -> Role:
    if provider == "embedded":
        return Role("tiny", role, provider, _shown(MODEL_DIR), None)
    if provider != "vllm":
        return Role(role, role, provider, named or default_model(role, provider), None)
    return Role(role, role, provider, named or default_model(role, provider), endpoint)


def _constitution(wanted: str) -> str:
    """The path of a constitution: a file, or the name of one that ships with the code."""
    shipped = SHIPPED / f"{wanted}.yaml"
    if Path(wanted).is_file():
        return wanted
    if not shipped.is_file():
        known = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.yaml")))
        raise ConfigError(
            f"--constitution {wanted}: neither a file nor one of {known or 'those in a checkout'}"
        )
    return _shown(shipped)


def _limit(prompts: Path | None) -> int | None:
    """Check that a file has prompts; the embedded ones are many, and the first of them do."""
    if prompts is None:
        return EMBEDDED_LIMIT
    next((row for row in read_prompts([SourceConfig(path=str(prompts))]) if not isinstance(row, Drop)), None)
    return None


def _name(path: Path) -> str:
    """A name for the run, of the file's."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("._-")
    return name if NAME.fullmatch(name) else "my-run"


def _shown(path: Path) -> str:
    """A path of the package as a config would have it: below the folder that commands are called in where it can."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error
