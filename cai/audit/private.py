"""Personal data and secrets inside texts, by known recognizers; a value that is found is never shown whole.

Personal data: Presidio's pattern recognizers for e-mail addresses, phone, card, account and social security numbers and
public IP addresses, without a language model, so names and addresses are not found. Secrets: the named-token detectors
of detect-secrets; its guesses (entropy, keywords) are left out, for prose and code examples are full of what they take
for secrets. Nothing is verified over the network.
"""

from __future__ import annotations

import importlib
import inspect
import ipaddress
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

from cai.report.plots import visible

READ = 20_000  # characters of a text that are looked at for personal data
WINDOW, OVERLAP = 10_000, 2_000  # characters that are searched for secrets at a time
SURE = 0.4  # Presidio's score for a phone number that its library takes for valid, without context
DETECTORS = (
    "artifactory", "aws", "azure_storage_key", "basic_auth", "discord", "github_token", "gitlab_token", "jwt",
    "mailchimp", "npm", "openai", "private_key", "pypi_token", "sendgrid", "slack", "square_oauth", "stripe",
    "telegram_token", "twilio",
)  # fmt: skip
_MAY_BE_SECRET = re.compile(r"[\w+/=.-]{20,}|PRIVATE KEY|://[^\s/]+:[^\s/]+@")
_MAY_BE_PART = re.compile(r"(?=[\w+/=-]*\d)[\w+/=-]{32,}")  # of a secret that a clipped text cuts
_MAY_BE_PERSONAL = re.compile(
    r"@|\d(?:[\s().:-]{0,3}\d){6}|[A-Z]{2}\d\d ?[\w ]{10}|\d\.\d{1,3}\.|:[0-9a-fA-F]{0,4}:"
)
_PLACEHOLDER = re.compile(
    r"(?i)@(?:[\w-]+\.)*(?:example\.(?:com|org|net|edu)|[\w-]+\.(?:example|test|invalid))\Z"
)


class Value(NamedTuple):
    """What was found: its kind, where it stands, and itself, which is for masking only."""

    kind: str
    start: int
    text: str


def secrets_in(text: str) -> Iterator[Value]:
    """Every secret in a text, by kind: whole, where the detectors themselves would give a part of it."""
    for start in range(
        0, len(text), WINDOW - OVERLAP
    ):  # some patterns take time in the square of a text's length
        window = text[start : start + WINDOW]
        if not _MAY_BE_SECRET.search(window):
            continue
        for detector in _detectors():
            valid = getattr(detector, "is_formally_valid", None)
            for pattern in detector.denylist:
                for found in pattern.finditer(window):
                    value = window[found.start() : _end_of_key(window, found)]
                    if valid is None or valid(value):
                        yield Value(detector.secret_type, start + found.start(), value)


def _end_of_key(text: str, found: re.Match[str]) -> int:
    """Where a secret ends: that of a private key, of which only the head is matched, where its lines end."""
    if "PRIVATE KEY" not in found[0]:
        return found.end()
    end = text.find("-----END", found.end())
    return len(text) if end < 0 else end


def personal_in(text: str) -> Iterator[Value]:
    """Every piece of personal data in a text, by kind."""
    text = text[:READ].encode("utf-8", "replace").decode()
    if not _MAY_BE_PERSONAL.search(text):
        return
    for recognizer in _recognizers():
        for result in recognizer.analyze(text, recognizer.supported_entities, None):
            value = text[result.start : result.end]
            if result.score >= SURE and not _belongs_to_nobody(result.entity_type, value):
                yield Value(result.entity_type, result.start, value)


def masked(value: str) -> str:
    """A value of which no more can be read than how it begins and how long it is."""
    shown = visible(value[: min(3, len(value) // 4)])
    return f"{shown}… ({len(value)} characters)"


def redacted(text: str, personal: bool) -> str:
    """A text in which every secret (and, if asked, every piece of personal data) is masked."""
    found = [*secrets_in(text), *(personal_in(text) if personal else ())]
    for value in sorted(found, key=lambda value: -len(value.text)):
        text = text.replace(value.text, masked(value.text))
    return _MAY_BE_PART.sub(lambda part: masked(part[0]), text)


def _belongs_to_nobody(kind: str, value: str) -> bool:
    """Whether a value is a documented placeholder: reserved domains, addresses that are not public."""
    if kind == "EMAIL_ADDRESS":
        return _PLACEHOLDER.search(value) is not None
    if kind == "IP_ADDRESS":
        try:
            return not ipaddress.ip_network(value, strict=False).is_global
        except ValueError:
            return True
    return False


@cache
def _detectors() -> tuple[Any, ...]:
    from detect_secrets.plugins.base import RegexBasedDetector

    found: list[Callable[[], Any]] = []
    for name in DETECTORS:
        module = importlib.import_module(f"detect_secrets.plugins.{name}")
        found += [
            member
            for _, member in inspect.getmembers(module, inspect.isclass)
            if issubclass(member, RegexBasedDetector) and member.__module__ == module.__name__
        ]
    return tuple(detector() for detector in found)


@cache
def _recognizers() -> tuple[Any, ...]:
    import tldextract.tldextract
    from presidio_analyzer import predefined_recognizers as known

    # the list of public suffixes that comes with the package; the default would fetch it
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.tldextract.TLDExtract(
        suffix_list_urls=(), cache_dir=None
    )
    return (
        known.EmailRecognizer(),
        known.PhoneRecognizer(supported_regions=("US", "GB", "DE", "FR", "IN")),
        known.CreditCardRecognizer(),
        known.IbanRecognizer(),
        known.IpRecognizer(),
        known.UsSsnRecognizer(),
    )
