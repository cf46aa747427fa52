"""Prompt templates: text files with `{placeholder}`s, filled in one pass.

One pass means that whatever a model wrote is never scanned for placeholders again, so a reply that
contains `{principle}` stays text. `{fence}` is a mark that none of the filled-in texts contains: a digest
of them and, where two texts are compared, of a number that belongs to this comparison alone. A folder of
templates is a dialect; `default` is for instruction-tuned models of any size, the embedded model has its
own short one beside its weights.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import count
from pathlib import Path

from cai.constitution import Example, Principle
from cai.errors import ConfigError
from cai.given import read_given
from cai.rows import Message

FIELDS: dict[str, frozenset[str]] = {
    "turn": frozenset({"role", "text"}),
    "critique": frozenset({"conversation", "principle"}),
    "revise": frozenset({"conversation", "principle", "critique"}),
    "compare": frozenset({"conversation", "principle", "a", "b"}),
    "reason": frozenset({"conversation", "principle", "a", "b"}),
    "answer": frozenset(),
    "stated": frozenset(),
    "step": frozenset({"conversation", "principle", "before", "step", "a", "b"}),
    "grade_harmless": frozenset({"conversation"}),
    "grade_helpful": frozenset({"conversation"}),
    "grade_refusal": frozenset({"conversation"}),
}
GRADING = frozenset({"grade_harmless", "grade_helpful", "grade_refusal"})
REASONING = frozenset({"reason", "answer"})
STEPWISE = frozenset({"step"})
OPTIONAL = GRADING | REASONING | STEPWISE | {"stated"}
NOTHING_BEFORE = "(none)"
FENCE_BYTES = 5
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_ROLE_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}

Templates = dict[str, str]


@lru_cache(maxsize=8)
def _load(name: str) -> tuple[tuple[str, str], ...]:
    folder = Path(__file__).parent / name if re.fullmatch(r"\w+", name) else Path(name)
    if not folder.is_dir():
        raise ConfigError(f"templates: {name!r} is neither 'default' nor a folder of template files")
    found: list[tuple[str, str]] = []
    for stem, fields in FIELDS.items():
        file = folder / f"{stem}.txt"
        if not file.is_file():
            if stem in OPTIONAL:
                continue
            raise ConfigError(f"templates: {file} is missing; copy it from cai/prompts/default/")
        try:
            text = read_given(file).decode().removesuffix("\n")
        except OSError as error:
            raise ConfigError(f"templates: {file} cannot be read ({error.strerror}); check it") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"templates: {file} is not UTF-8 ({error.reason}); save it as UTF-8") from error
        used = set(_PLACEHOLDER.findall(text))
        if unknown := used - fields - ({"fence"} if fields else set()):
            raise ConfigError(
                f"templates: {file}: unknown placeholder {{{min(unknown)}}}; known: {sorted(fields)}"
            )
        if missing := fields - used:
            raise ConfigError(f"templates: {file}: the placeholder {{{min(missing)}}} must be used")
        found.append((stem, text))
    return tuple(found)


def load_templates(name: str) -> Templates:
    """Templates by stem. `name`: `default`, or a folder. Raises ConfigError for a missing file or placeholder."""
    return dict(_load(name))


def fill(template: str, fields: dict[str, str]) -> str:
    """Substitute every placeholder once; substituted text is not looked at again."""
    return _format(template) % fields


@lru_cache(maxsize=64)
def _format(template: str) -> str:
    """The template as Python's own formatting takes it, which also looks at the template only."""
    return _PLACEHOLDER.sub(r"%(\1)s", template.replace("%", "%%"))


def fence_of(*texts: str, nonce: str = "") -> str:
    """A mark for delimiting `texts` that none of them contains: a digest of them under the key `nonce` (64 bytes)."""
    body, key = "\x1f".join(texts), nonce.encode()
    data = body.encode("utf-8", "surrogatepass")
    for again in count():
        digest = hashlib.blake2b(data, digest_size=FENCE_BYTES, key=key, salt=again.to_bytes(16))
        mark = f"text-{digest.hexdigest()}"
        if mark not in body:  # without \x1f, it is never half in one text
            break
    return mark


def _render(
    templates: Templates, stem: str, turns: Sequence[Message], fields: dict[str, str], nonce: str = ""
) -> str:
    fence = fence_of(*(turn.content for turn in turns), *fields.values(), nonce=nonce)
    conversation = "\n".join(
        fill(templates["turn"], {"role": _ROLE_NAMES[turn.role], "text": turn.content, "fence": fence})
        for turn in turns
    )
    return fill(templates[stem], {**fields, "conversation": conversation, "fence": fence})


def _user(text: str) -> Message:
    return Message(role="user", content=text)


def _assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


def critique_messages(
    templates: Templates, principle: Principle, turns: Sequence[Message], reply: str
) -> tuple[Message, ...]:
    """Ask whether `reply` to `turns` breaks the principle; its few-shot examples come first, in file order."""
    words = principle.critique or principle.statement
    asked = _critique(templates, words, turns, reply)
    if not principle.examples:
        return (asked,)
    return (*_critique_shots(templates["turn"], templates["critique"], words, principle.examples), asked)


def revise_messages(
    templates: Templates, principle: Principle, turns: Sequence[Message], reply: str, critique: str
) -> tuple[Message, ...]:
    """Ask for the reply again, mended by the critique; examples that hold a revision come first."""
    words = principle.revision or principle.statement
    asked = _revise(templates, words, turns, reply, critique)
    if not principle.examples:
        return (asked,)
    return (*_revise_shots(templates["turn"], templates["revise"], words, principle.examples), asked)


def _critique(templates: Templates, words: str, turns: Sequence[Message], reply: str) -> Message:
    return _user(_render(templates, "critique", (*turns, _assistant(reply)), {"principle": words}))


def _revise(templates: Templates, words: str, turns: Sequence[Message], reply: str, critique: str) -> Message:
    wording = {"principle": words, "critique": critique}
    return _user(_render(templates, "revise", (*turns, _assistant(reply)), wording))


@lru_cache(maxsize=1024)  # the same for every row that draws the principle
def _critique_shots(
    turn: str, template: str, words: str, examples: tuple[Example, ...]
) -> tuple[Message, ...]:
    templates = {"turn": turn, "critique": template}
    shots: list[Message] = []
    for example in examples:
        verdict = "breaks" if example.violated else "keeps"
        shots += [
            _critique(templates, words, example.conversation, example.reply),
            _assistant(f"{example.critique}\nVERDICT: {verdict}"),
        ]
    return tuple(shots)


@lru_cache(maxsize=1024)
def _revise_shots(turn: str, template: str, words: str, examples: tuple[Example, ...]) -> tuple[Message, ...]:
    templates = {"turn": turn, "revise": template}
    shots: list[Message] = []
    for example in examples:
        if example.revision is not None:
            asked = _revise(templates, words, example.conversation, example.reply, example.critique)
            shots += [asked, _assistant(example.revision)]
    return tuple(shots)


def compare_messages(
    templates: Templates, principle: Principle, turns: Sequence[Message], first: str, second: str, nonce: str
) -> tuple[Message, ...]:
    """Ask which of two replies keeps the principle better; `first` is shown as A. `nonce`: see `fence_of`."""
    wording = {"principle": principle.judge or principle.statement, "a": first, "b": second}
    return (_user(_render(templates, "compare", turns, wording, nonce)),)


def step_messages(
    templates: Templates,
    principle: Principle,
    turns: Sequence[Message],
    first: str,
    second: str,
    nonce: str,
    *,
    before: Sequence[str],
    step: str,
) -> tuple[Message, ...]:
    """Ask of one step of a reply which of two answers holds; `first` is shown as A. `before`: the steps before it."""
    wording = {"principle": principle.judge or principle.statement, "a": first, "b": second}
    shown = {"before": "\n\n".join(before) or NOTHING_BEFORE, "step": step}
    return (_user(_render(templates, "step", turns, wording | shown, nonce)),)


def reason_messages(
    templates: Templates, principle: Principle, turns: Sequence[Message], first: str, second: str, nonce: str
) -> tuple[Message, ...]:
    """Ask to weigh two replies under the principle before `answer_messages` asks which is better."""
    wording = {"principle": principle.judge or principle.statement, "a": first, "b": second}
    return (_user(_render(templates, "reason", turns, wording, nonce)),)


def answer_messages(templates: Templates, asked: Sequence[Message], reasoning: str) -> tuple[Message, ...]:
    """Ask which reply is better, after the reasoning that was `asked` for."""
    return (*asked, _assistant(reasoning), _user(templates["answer"]))


def stated_messages(templates: Templates, messages: Sequence[Message]) -> tuple[Message, ...]:
    """The question with the words for an answer as JSON behind it, where the dialect has some."""
    if "stated" not in templates:
        return tuple(messages)
    *before, last = messages
    return (*before, _user(f"{last.content}\n\n{templates['stated']}"))


def grade_messages(
    templates: Templates, metric: str, turns: Sequence[Message], reply: str
) -> tuple[Message, ...]:
    """Ask a yes/no question about one reply; `metric` is harmless, helpful or refusal."""
    return (_user(_render(templates, f"grade_{metric}", (*turns, _assistant(reply)), {})),)
