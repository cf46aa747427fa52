"""Keys that were put into a config by mistake: refused, without a word of them, since a config is written down.

It goes into the run's folder, into Prefect's database and onto exported cards, and flags of an engine are arguments
of a process, which every user of the machine can read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from cai.config import RunConfig

ENV_NAME = r"[A-Z_][A-Z0-9_]{0,63}"  # as environment variables are written; most keys are not
_DENSE = re.compile(r"[A-Z0-9]{16,}")  # and those that are have no underscore
_SECRET = re.compile(
    r"(^|[_-])(keys?|api[_-]?keys?|secrets?|token|password|passwd|credentials?)$|secret|password",
    re.IGNORECASE,
)
_KNOWN = re.compile(  # how the keys of well-known services begin
    r"(?<![A-Za-z0-9])(sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{20,}|gh[opsur]_[A-Za-z0-9]{30,}|github_pat_\w{20,}"
    r"|A(KI|SI)A[A-Z0-9]{16}|AIza[\w-]{30,}|xox[abprs]-[\w-]{10,}|gsk_\w{20,}|glpat-[\w-]{16,})"
)


def check_env_name(name: str | None) -> str | None:
    """The name of a variable, as given. Raises ValueError for what looks like a key."""
    if name is not None and (re.fullmatch(ENV_NAME, name) is None or _DENSE.fullmatch(name)):
        raise ValueError(
            "names the environment variable that holds the key, as in OPENAI_API_KEY, and never the key itself; "
            "what stands here looks like a key, so it is not repeated"
        )
    return name


def check_address(address: str | None) -> str | None:
    """An address, as given. Raises ValueError where it holds a user, a password or a key."""
    if address is None:
        return None
    url = urlsplit(address)
    if "@" in url.netloc or any(_SECRET.search(part.partition("=")[0]) for part in url.query.split("&")):
        raise ValueError(
            "an address with a login or a key in it would be written down with the config; leave that out, and "
            "name the environment variable that holds the key in 'api_key_env'"
        )
    return address


def check_no_secret(values: Mapping[str, Any], fix: str) -> None:
    """Raise ValueError where a name says that its value is a secret; switches and numbers are none."""
    for name, value in values.items():
        if isinstance(value, str) and value and _SECRET.search(name):
            raise ValueError(f"{name}: a secret would be written down with the config; {fix}")


def check_texts(config: RunConfig) -> None:
    """Raise ValueError where any text of a config is a key of a well-known service."""
    for place, text in _texts(config.model_dump(mode="json"), ""):
        if _KNOWN.search(text):
            raise ValueError(
                f"{place}: holds what looks like the key of a service; keys come from the environment, so take it "
                "out, and have it replaced: others may have read it"
            )


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text in it with its place, a mapping's keys included."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield place or "a key", name
            yield from _texts(part, f"{place}.{name}" if place else name)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _texts(part, f"{place}.{index}")
