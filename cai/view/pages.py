"""Pages from templates: escaped, with every character of a run's texts visible; forms in, redirects out."""

from __future__ import annotations

import functools
import math
import re
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from cai.errors import ConfigError

FORM_BYTES = 1 << 20
_LONG = 120  # characters of one line of a problem that are shown


@functools.cache
def environment() -> Environment:
    """The templates of the viewer."""
    made = Environment(
        loader=PackageLoader("cai", "view/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(visible=visible_text, q=quoted, number=number, logarithm=logarithm, word=word)
    made.globals.update(link=link)
    return made


def render(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """A page. `request` and `view` are known to every template."""
    page = (
        environment().get_template(template).render(request=request, view=request.app.state.view, **context)
    )
    return HTMLResponse(page.encode("utf-8", "replace"), status)


def problem_page(status: int, message: str) -> HTMLResponse:
    """A page that says what is wrong, in one line."""
    page = environment().get_template("problem.html.j2").render(message=message)
    return HTMLResponse(page.encode("utf-8", "replace"), status)


def visible_text(text: object) -> str:
    """A text in which every character can be seen: that of the report page."""
    from cai.report.plots import visible_text as shown

    return shown(str(text))


def quoted(text: object) -> str:
    """A text as a part of an address."""
    return quote(str(text).encode("utf-8", "replace"), safe="")


def link(path: str, **query: object) -> str:
    """An address within the viewer; what is None or empty is left out."""
    pairs = [
        (name, str(value).encode("utf-8", "replace"))
        for name, value in query.items()
        if value not in (None, "")
    ]
    return f"{path}?{urlencode(pairs)}" if pairs else path


def number(value: float | None, digits: int = 2) -> str:
    """A number for a table; a dash for None."""
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def word(text: str) -> str:
    """A text as the name of a style; empty for any but a plain word."""
    return text if re.fullmatch("[a-z_]+", text) else ""


def logarithm(value: float) -> str:
    """The natural logarithm of a probability above zero."""
    return f"{math.log(value):.2f}"


async def form(request: Request) -> dict[str, str]:
    """The fields of a posted form; the last of a name counts. Raises ConfigError for what is no form, or too long."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > FORM_BYTES:
            raise ConfigError(f"the form has more than {FORM_BYTES:,} bytes; shorten the text")
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/x-www-form-urlencoded":
        raise ConfigError("only forms of the viewer's own pages are read (application/x-www-form-urlencoded)")
    try:
        fields = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=1000)
    except ValueError as error:
        raise ConfigError("the form is not UTF-8; send it again") from error
    return dict(fields)


def go(path: str) -> RedirectResponse:
    """What a posted form is answered with: see there."""
    return RedirectResponse(path, 303)


def one_line(text: str) -> str:
    """A message as it fits on a line."""
    flat = " ".join(visible_text(text).split())
    return flat if len(flat) <= 10 * _LONG else flat[: 10 * _LONG - 1] + "…"
