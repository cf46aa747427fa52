"""`cai push`: a trained model of a run to a hub."""

from __future__ import annotations

from typing import Annotated

import typer

from cai.cli.common import Json, Run, of_a_run, print_json, raise_user, tell


@of_a_run
def push(
    run: Run,
    model: Annotated[str, typer.Option(metavar="NAME", help="Which of its models: sft, dpo, reward …")],
    to: Annotated[str, typer.Option(metavar="ORG/NAME", help="Repository; made where it is not there yet.")],
    public: Annotated[bool, typer.Option("--public", help="Everybody may read it; else private.")] = False,
    as_json: Json = False,
) -> None:
    """Upload a trained model with its card to a hub; the token is HF_TOKEN."""
    from cai.hub import push_folder
    from cai.printable import printable

    models = sorted(path.name for path in (run / "models").glob("*") if path.is_dir())
    if model not in models:
        raise_user(printable(f"{run}: no model {model!r}; it has {', '.join(models) or 'none'}"))
    pushed = push_folder(run / "models" / model, to, "model", private=not public)
    if as_json:
        print_json(pushed._asdict())
        return
    tell(
        f"pushed {model} to {pushed.url} ({'private' if pushed.private else 'public'}); revision {pushed.commit}"
    )
