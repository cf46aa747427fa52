"""What every page of the viewer knows: the run, what it is compared with, and the index of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, cast

from fastapi import Depends, Request

from cai.config import RunConfig
from cai.constitution import Constitution
from cai.view.index import Index


class Settings(NamedTuple):
    """How a viewer was started. `against`: the other run, or the version before the last edit of the constitution."""

    run: Path
    against: Path | None
    token: str
    host: str
    port: int


@dataclass(frozen=True)
class View:
    """One viewer. `other`: the index of what the run is compared with, where there is such a thing."""

    settings: Settings
    config: RunConfig
    constitution: Constitution
    index: Index
    other: Index | None

    @property
    def root(self) -> Path:
        """The run's folder."""
        return self.settings.run

    @property
    def indexes(self) -> list[Index]:
        """Those of the run and of what it is compared with."""
        return [index for index in (self.index, self.other) if index is not None]


def view_of(request: Request) -> View:
    """The viewer that a request is for; the request remembers what its index was like when it came."""
    view = cast(View, request.app.state.view)
    request.state.versions = [index.version for index in view.indexes]
    return view


ViewDep = Annotated[View, Depends(view_of)]
