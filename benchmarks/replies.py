"""What the loopback server says: prebuilt replies that drive the real pipeline, and seeded faults.

A reply is a function of the request's bytes alone, so a run against it can be repeated. It is recognised by
the words of the default templates: a critique always finds something, a revision is always judged better (but
for a share that is left undecided), so a row costs the same number of calls whoever asks. Bytes are put
together without a JSON library: the text that changes from reply to reply is sixteen hex digits.
"""

from __future__ import annotations

import hashlib
import math
import re
from enum import IntEnum
from typing import NamedTuple

TEXT = "It walks through the question in plain words, names what matters and leaves out what does not. "
SURE, UNSURE = 0.9, 0.55  # probabilities of the better reply; the second is below any useful threshold
REVISED = re.compile(rb"Revised answer ([0-9a-f]{16})")
ERROR = b'{"error": {"message": "%s", "type": "loopback", "code": null}}'


class Kind(IntEnum):
    """What a call asks for."""

    REPLY = 0
    CRITIQUE = 1
    REVISION = 2
    CHOICE = 3


class Fault(IntEnum):
    """What goes wrong with a call."""

    RATE_LIMIT = 0
    SERVER_ERROR = 1
    MALFORMED = 2


class Behaviour(NamedTuple):
    """How the server behaves. Shares are of all calls, `malformed` of critiques and choices, `undecided` of pairs.

    A malformed critique lacks its verdict, a malformed choice is prose. Every second 429 carries `Retry-After:
    retry_after_s`. `words`: length of a reply, in repeats of a sentence.
    """

    latency_s: float = 0.0
    rate_limited: float = 0.0
    failing: float = 0.0
    malformed: float = 0.0
    undecided: float = 0.0
    retry_after_s: int = 1
    sentences: int = 5
    seed: int = 0

    @property
    def faulty(self) -> bool:
        """True where anything can go wrong."""
        return self.rate_limited + self.failing + self.malformed > 0


class Said(NamedTuple):
    """One reply: its bytes on the wire, what was asked for, and the fault in it."""

    wire: bytes
    kind: Kind
    fault: Fault | None


def kind_of(body: bytes) -> Kind:
    """What a request body asks for, by the words of the default templates."""
    if b'"structured_outputs"' in body or b"the letter A or B" in body:
        return Kind.CHOICE
    if b"Write nothing but the new reply" in body:
        return Kind.REVISION
    return Kind.CRITIQUE if b"VERDICT:" in body else Kind.REPLY


def digest(body: bytes) -> bytes:
    """What tells two requests apart: 8 bytes."""
    return hashlib.blake2b(body, digest_size=8).digest()


def say(body: bytes, key: bytes, seen: int, behaviour: Behaviour) -> Said:
    """The reply to a request that was `seen` so often before; `key` is its digest."""
    kind = kind_of(body)
    fault = fault_of(kind, key, seen, behaviour) if behaviour.faulty else None
    if fault is Fault.RATE_LIMIT:
        more = b"Retry-After: %d\r\n" % behaviour.retry_after_s if key[0] % 2 else b""
        return Said(http(b"429 Too Many Requests", ERROR % b"slow down", more), kind, fault)
    if fault is Fault.SERVER_ERROR:
        return Said(http(b"500 Internal Server Error", ERROR % b"try again"), kind, fault)
    if kind is Kind.CHOICE:
        text, logprobs = _choice(body, behaviour)
        if fault is not None:
            text, logprobs = b"Both replies have something to be said for them.", b"null"
    else:
        text, logprobs = _prose(kind, key, behaviour.sentences, fault is None), b"null"
    return Said(http(b"200 OK", _chat(text, logprobs, len(body) // 4)), kind, fault)


def fault_of(kind: Kind, key: bytes, seen: int, behaviour: Behaviour) -> Fault | None:
    """The fault of the (`seen` + 1)th call with this body; another one than before, so a retry can succeed."""
    drawn = hashlib.blake2b(key + b"%d/%d" % (seen, behaviour.seed), digest_size=8).digest()
    share = int.from_bytes(drawn, "big") / 2**64
    if share < behaviour.rate_limited:
        return Fault.RATE_LIMIT
    if (share := share - behaviour.rate_limited) < behaviour.failing:
        return Fault.SERVER_ERROR
    verdict = kind in (Kind.CRITIQUE, Kind.CHOICE)
    return Fault.MALFORMED if verdict and share - behaviour.failing < behaviour.malformed else None


def _prose(kind: Kind, key: bytes, sentences: int, good: bool) -> bytes:
    opening = {Kind.REPLY: b"Plain", Kind.REVISION: b"Revised", Kind.CRITIQUE: b"Critical"}[kind]
    text = b"%s answer %s. %s" % (opening, key.hex().encode(), (TEXT * sentences).strip().encode())
    return text + rb"\nVERDICT: breaks" if kind is Kind.CRITIQUE and good else text


def _choice(body: bytes, behaviour: Behaviour) -> tuple[bytes, bytes]:
    """A or B, whichever is the revision, and the logprobs of both, by token id where they are asked for so."""
    revised = REVISED.search(body)
    plain = body.find(b"Plain answer", body.find(b"reply A"))
    first = revised is not None and revised.start() < plain
    share = int(revised[1], 16) / 2**64 if revised else 0.0
    better = UNSURE if share < behaviour.undecided else SURE
    p = {b"A": better if first else 1 - better, b"B": 1 - better if first else better}
    by_id = b'"return_tokens_as_token_ids"' in body
    entries = {
        letter: b'{"token":"%s","logprob":%.6f,"bytes":[%d]}'
        % (b"token_id:%d" % ord(letter) if by_id else letter, math.log(value), ord(letter))
        for letter, value in p.items()
    }
    said = b"A" if first else b"B"
    top = b'"top_logprobs":[%s,%s]' % (entries[b"A"], entries[b"B"])
    return said, b'{"content":[%s,%s}]}' % (entries[said].removesuffix(b"}"), top)


def _chat(text: bytes, logprobs: bytes, prompt_tokens: int) -> bytes:
    return (
        b'{"id":"chatcmpl-0","object":"chat.completion","created":0,"model":"loopback","choices":[{"index":0,'
        b'"message":{"role":"assistant","content":"%s","refusal":null},"finish_reason":"stop","logprobs":%s}],'
        b'"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}}'
    ) % (text, logprobs, prompt_tokens, tokens := len(text) // 4 + 1, prompt_tokens + tokens)


def http(status: bytes, body: bytes, headers: bytes = b"") -> bytes:
    """A response with a JSON body."""
    head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n"
    return head % (status, len(body), headers) + body
