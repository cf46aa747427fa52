"""Turn tokens in content: a text that holds `<|im_end|>` must not end the turn that it stands in.

An engine writes a conversation as one string by the model's chat template and then looks for control tokens in all of
it, so those in a prompt, or in a reply that is being judged, would count like the template's own. Where a message
holds one, an invisible word joiner goes behind its first character, on the way to the model only: rows, journal keys
and files keep the text. How often that was done is part of the completion.

Of a folder of weights the tokens are known; of a model that is only a name, what the usual families write is taken.
Templates that mark turns by plain words ("USER:") have nothing that could be broken up.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from cai.config import ModelConfig
from cai.errors import ConfigError
from cai.models.base import Completion, Request

JOINER = "\u2060"
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
TEMPLATES = ("chat_template.jinja", "chat_template.json")
# What marks turns in the families that are served most, by the first character. Bounded, so that a search is linear.
USUAL = {
    "<": r"\|[\w./:-]{1,64}\|?>|[\w./:-]{1,64}\|>|｜[^｜\n]{1,64}｜>|/?s>|/?(?:start|end)_of_(?:turn|image)>"
    r"|(?:bos|eo[adhs]|sop|pad|unk|BOS_TOKEN|EOS_TOKEN|seed:[a-z]os)>|</?SYS>>"
    r"|(?:unused|reserved_|extra_id_|SPECIAL_)\d{1,4}>",
    "[": r"/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT)\]|\|[a-z]{1,32}\|\]"
    r"|gMASK\]|e~\[",
    "]": r"~!?b[\[\]]",
}
_BROKEN = rf"\g<0>{JOINER}"


class Sent(NamedTuple):
    """A request as it goes to the model, and how many turn tokens were broken up in it."""

    request: Request
    defused: int

    def answered(self, completion: Completion) -> Completion:
        """The reply to it, with the count."""
        return completion.model_copy(update={"defused": self.defused}) if self.defused else completion


class TurnTokens:
    """What would open or close a turn if it stood in a message: these tokens, and with `usual` the usual ones.

    Tokens of a single character and of blanks alone are left out: no text can do without them.
    """

    def __init__(self, tokens: Iterable[str], *, usual: bool) -> None:
        self.tokens = frozenset(token for token in tokens if len(token) > 1 and not token.isspace())
        self._usual = usual

    @cached_property
    def _patterns(self) -> list[re.Pattern[str]]:
        """One for each first character, because a search for a fixed one is many times faster."""
        rests: defaultdict[str, list[str]] = defaultdict(list)
        for first, shapes in USUAL.items() if self._usual else ():
            rests[first].append(shapes)
        for first in sorted({token[0] for token in self.tokens}):
            rests[first].append(_any_of({token[1:] for token in self.tokens if token[0] == first}))
        return [re.compile(f"{re.escape(first)}(?={'|'.join(rest)})") for first, rest in rests.items()]

    def defused(self, text: str) -> tuple[str, int]:
        """The text with every turn token broken up, and how many there were; nearly always the text itself and 0."""
        count = 0
        for pattern in self._patterns:
            if pattern.search(text):
                text, found = pattern.subn(_BROKEN, text)
                count += found
        return text, count

    def sent(self, request: Request) -> Sent:
        """The request with no turn token in any message."""
        count = 0
        messages = list(request.messages)
        for place, message in enumerate(messages):
            content, found = self.defused(message.content)
            if found:
                messages[place] = message.model_copy(update={"content": content})
                count += found
        if not count:
            return Sent(request, 0)
        return Sent(request.model_copy(update={"messages": tuple(messages)}), count)


NOTHING = TurnTokens((), usual=False)  # of a provider that keeps content and control apart itself
ANY_MODEL = TurnTokens((), usual=True)  # of a model of which no more than the name is known, or not even that


def turn_tokens(config: ModelConfig) -> TurnTokens:
    """Those of a model on an engine: of its folder, of another tokenizer or template that the engine is started with,
    and the usual ones where either is not at hand. Raises ConfigError for a tokenizer's file that cannot be read.
    """
    flags = config.managed.args if config.managed else {}
    given = {name.replace("_", "-"): str(value) for name, value in flags.items()}
    found = tokens_in(given.get("tokenizer", config.model))
    template = given.get("chat-template")
    if template is None:
        return found
    path = Path(template)
    more = _usual_in(path.read_text("utf-8", "replace") if path.is_file() else template)
    return TurnTokens(found.tokens | more, usual=True)


def tokens_in(folder: str) -> TurnTokens:
    """Those of a folder's tokenizer and chat template; the usual ones where it has none, or is a name on a hub."""
    paths = [Path(folder) / name for name in (*FILES, *TEMPLATES)]
    return _read(tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in paths if p.is_file()))


def tokens_of(tokenizer: Any, template: str) -> TurnTokens:
    """Those of a tokenizer of transformers', and of the chat template that it is used with."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return TurnTokens(special.union(tokenizer.all_special_tokens, _usual_in(template)), usual=False)


@lru_cache(maxsize=64)
def _read(files: tuple[tuple[str, int, int], ...]) -> TurnTokens:
    """`files`: path, mtime and size; the last two are only there to miss the cache when a file changed."""
    tokens: set[str] = set()
    known = False
    for name, _, _ in files:
        path = Path(name)
        if path.suffix == ".jinja":
            tokens |= _usual_in(path.read_text("utf-8", "replace"))
            continue
        try:
            content = orjson.loads(path.read_bytes())
            known |= "added_tokens" in content or "added_tokens_decoder" in content
            tokens.update(_special(content))
            tokens |= _usual_in(orjson.dumps(content.get("chat_template") or "").decode())
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise ConfigError(f"{path}: not a tokenizer's file ({error})") from error
    return TurnTokens(tokens, usual=not known)


def _special(content: dict[str, Any]) -> Iterator[str]:
    """The special tokens that one of a tokenizer's files names, in whichever of their forms."""
    for token in (*content.get("added_tokens", ()), *content.get("added_tokens_decoder", {}).values()):
        if token.get("special"):
            yield token["content"]
    for name, value in content.items():
        if name.endswith("_token") or name.endswith("_special_tokens"):
            some = list(value.values()) if isinstance(value, dict) and "content" not in value else value
            for token in some if isinstance(some, list) else [some]:
                text = token.get("content") if isinstance(token, dict) else token
                if isinstance(text, str):
                    yield text


def _usual_in(template: str) -> set[str]:
    """What a chat template writes that looks like a turn token, whether its tokenizer has a token for it or not."""
    patterns = (re.compile(f"{re.escape(first)}(?:{shapes})") for first, shapes in USUAL.items())
    return {found[0] for pattern in patterns for found in pattern.finditer(template)}


def _any_of(texts: Collection[str]) -> str:
    """A pattern for a text that begins with one of these, which a search walks once: thousands cost what one does."""
    if "" in texts:
        return ""
    options = [
        re.escape(first) + _any_of({text[1:] for text in texts if text[0] == first})
        for first in sorted({text[0] for text in texts})
    ]
    return options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"
