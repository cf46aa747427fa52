"""Every error that a user of `cai` can meet, one type for each boundary that was crossed.

A message names the value, the place and the fix in one line. Row-level failures are not errors:
they are `Drop` rows with a reason. What is raised here stops a run (or a single call, for
`ProviderError` and `ParseError`, which the runner turns into a drop).
"""

from __future__ import annotations

from typing import Literal

from cai.printable import one_line, shortened

MOST_MESSAGE = 4000  # characters


class CaiError(Exception):
    """Base of all errors raised on purpose; the CLI prints it as one line and exits 2 (or 1 for a failed job).

    Whatever a message quotes (names of files, values, replies), it is one line that cannot steer a terminal.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(shortened(one_line(message), MOST_MESSAGE))


class ConfigError(CaiError):
    """The run config, a prompt source, a missing key or another input of the user's is wrong."""

    exit_code = 2


class ConstitutionError(ConfigError):
    """A constitution file cannot be used; the message carries `file:line:column`."""


class StoreError(CaiError):
    """A file of a run (journal, shard, manifest, export) is missing, torn or cannot be written."""


class TrainError(CaiError):
    """A training process failed; the message names its log file and the last line of it."""


class ServerError(CaiError):
    """A managed vLLM server did not start, or died; the message names its log file."""


class EngineDied(ServerError):
    """A vLLM engine of the run's own ended while it was in use; starting it again may be all it takes."""


class HubError(CaiError):
    """A hub refused an upload or cannot be reached; the message says what to do. The token is in no message."""


class JudgeError(CaiError):
    """The judge is not fit to label; the message says why."""


class TargetError(CaiError):
    """All prompts are used up, and there are fewer pairs than the target; the message says what is there."""


class ParseError(CaiError):
    """A model's text does not hold what the template asked for. Never repaired, never guessed."""


class Refused(ParseError):
    """The model (or the provider's filter) declined to answer; asking again would only be declined again."""


class BudgetError(CaiError):
    """A cap of the run's budget is reached; the message says which, and how to go on."""


class AccountingError(StoreError):
    """Rows or calls do not add up, which is a bug; the message names stage, shard and both numbers."""


class BatchError(CaiError):
    """A provider refused a batch as a whole, lost it, or cannot be asked about it; the message says how to go on."""


ProviderErrorKind = Literal[
    "auth",  # 401/403: the key is missing or wrong; stops the run
    "not_found",  # 404: wrong model name or endpoint; stops the run
    "bad_request",  # 400/422: this request can never succeed; the row is dropped
    "context_length",  # 400 because the prompt is too long for the model; the row is dropped
    "unreachable",  # nothing listens at the endpoint (any more); stops the run
    "broken",  # nothing at the endpoint succeeds any more, whoever calls; stops the run
    "retries_exhausted",  # retryable failures (429, 5xx, timeouts, resets) outlived the retry policy
    "malformed",  # the reply is not the JSON that the protocol promises
    "not_asked",  # a rehearsal asks nobody, and the journal holds no reply; the row goes no further
]
FATAL_KINDS: frozenset[ProviderErrorKind] = frozenset({"auth", "not_found", "unreachable", "broken"})


class ProviderError(CaiError):
    """A call to a model endpoint failed for good. `kind` says whether the run can go on (`fatal`)."""

    def __init__(self, kind: ProviderErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[ProviderError], tuple[ProviderErrorKind, str]]:
        """For the way here from another process."""
        return type(self), (self.kind, str(self))

    @property
    def fatal(self) -> bool:
        """True where every further call would fail the same way, so the run must stop."""
        return self.kind in FATAL_KINDS
