"""Models and datasets to a hub: looked at here first, then uploaded by huggingface_hub, private unless said otherwise.

What is refused is refused before anything leaves this machine: a folder that is not complete, files that run code
when they are loaded (pickles, Python), and links that lead out of the folder. The token is `HF_TOKEN` of the
environment alone; it is sent to the hub and stands in no message. HF_ENDPOINT names another hub than huggingface.co.
"""

from __future__ import annotations

import os
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cai.errors import ConfigError, HubError

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
CODE = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth", ".py", ".pyc", ".so")
REPLACED = {  # what an earlier push may have left: of a repository that is pushed again, files of these names go
    "model": ["*.safetensors", "*.safetensors.index.json"],
    "dataset": ["*.jsonl", "*.parquet", "*.arrow"],
}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PICKLE = re.compile(rb"\x80[\x02-\x05]")

Kind = Literal["model", "dataset"]


class Pushed(NamedTuple):
    """Where an upload lies. `commit`: the revision to load it by, which no later push changes."""

    url: str
    commit: str
    private: bool


def push_folder(folder: Path, repo: str, kind: Kind, *, private: bool) -> Pushed:
    """Upload `folder` as the repository `repo` (`org/name`), made where it is not there yet; blocks until done.

    Files of an earlier push that this folder no longer has are removed with it; the hub keeps its history. Raises
    ConfigError for what is refused before the upload, HubError where the hub refuses or cannot be reached.
    """
    if not _NAME.fullmatch(repo):
        raise ConfigError(f"{repo!r}: not the name of a repository; give org/name or user/name")
    check_folder(folder, kind)
    token = _token()
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():  # a log wants the error, not the bars
        disable_progress_bars()
    try:
        return _push(HfApi(token=token), folder, repo, kind, private)
    except OfflineModeIsEnabled as error:
        raise ConfigError("HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it") from error
    except (HTTPError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: of the client's Rust part
        raise HubError(_told(error, repo, kind).replace(token, "<token>")) from None


def check_folder(folder: Path, kind: Kind) -> None:
    """Raise ConfigError where a folder is not what can be pushed: incomplete, unsafe or not there."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() or path.is_symlink()]
    if not files:
        raise ConfigError(f"{folder}: no such folder, or an empty one; nothing to push")
    for path in files:
        if (why := _unsafe(path, folder)) is not None:
            raise ConfigError(f"{path}: {why}; take it out of the folder and push again")
    if kind == "model" and (missing := next(_missing(folder), None)) is not None:
        raise ConfigError(f"{folder}: not a complete model: {missing}; train it to its end first")


def _push(api: Any, folder: Path, repo: str, kind: Kind, private: bool) -> Pushed:
    api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
    there = api.repo_info(repo, repo_type=kind)
    if private and not there.private:
        raise ConfigError(
            f"{repo}: there is a public repository of this name; push with --public, or to another one"
        )
    done = api.upload_folder(
        repo_id=repo,
        repo_type=kind,
        folder_path=folder,
        commit_message=f"Upload {folder.name} by cai",
        delete_patterns=REPLACED[kind],
        parent_commit=there.sha,  # refused where somebody else commits meanwhile
    )
    place = f"datasets/{repo}" if kind == "dataset" else repo
    return Pushed(url=f"{api.endpoint}/{place}/tree/{done.oid}", commit=done.oid, private=there.private)


def _token() -> str:
    found = next((os.environ[name].strip() for name in TOKENS if os.environ.get(name, "").strip()), None)
    if found is None:
        raise ConfigError("HF_TOKEN is not set; make a token that may write at the hub and export it")
    return found


def _unsafe(path: Path, folder: Path) -> str | None:
    """Why a file is not to be handed on; None where nothing speaks against it."""
    if not path.resolve().is_relative_to(folder.resolve()):
        return "a link that leads out of the folder"
    if path.suffix.lower() in CODE:
        return "a file that runs code when it is loaded"
    if path.suffix == ".safetensors":  # begins with a length, which may look like anything
        return None
    with path.open("rb") as file:
        start = file.read(2)
    if _PICKLE.match(start):
        return "a pickle, which runs code when it is loaded"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith(".pkl") for name in archive.namelist()):
                return "a pickle in an archive, which runs code when it is loaded"
    return None


def _missing(folder: Path) -> Iterator[str]:
    """What a model's folder lacks, or holds torn."""
    from huggingface_hub import get_local_safetensors_metadata
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    if (folder / "cai_train.yaml").is_file() and not (folder / "cai_train.json").is_file():
        yield "its training has not ended (no cai_train.json)"
    yield from (
        f"no {name}" for name in ("config.json", "tokenizer_config.json") if not (folder / name).is_file()
    )
    try:
        found = get_local_safetensors_metadata(folder)
    except (NotASafetensorsRepoError, SafetensorsParsingError, OSError, ValueError) as error:
        yield _line(error)
        return
    for name, shard in found.files_metadata.items():
        end = max((tensor.data_offsets[1] for tensor in shard.tensors.values()), default=0)
        with (folder / name).open("rb") as file:
            header = 8 + int.from_bytes(file.read(8), "little")
        if (folder / name).stat().st_size != header + end:
            yield f"{name} has {(folder / name).stat().st_size:,} bytes of {header + end:,}"


def _told(error: Exception, repo: str, kind: Kind) -> str:
    """What went wrong at the hub, in one line."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return f"{repo}: the hub does not accept the token (401); set HF_TOKEN to a valid one that may write"
    if status == 403:
        return f"{repo}: the token may not write there (403); use one that may write to {repo.split('/')[0]}"
    if status in (409, 412):
        return f"{repo}: somebody else has changed this {kind} meanwhile ({status}); push again"
    if status is None:
        return f"{repo}: the hub cannot be reached or broke off ({_line(error)}); push again"
    return f"{repo}: the hub refused with {status} ({_line(error)})"


def _line(error: Exception) -> str:
    from cai.printable import printable

    said = getattr(error, "server_message", None) or str(error)
    return printable(" ".join(said.split())[:200]) or type(error).__name__
