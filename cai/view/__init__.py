"""`cai view RUN`: a run in the browser, read row by row from its own files.

One process, loopback only, server-rendered pages that need no script. What is shown is never held in memory: an
index of Parquet files beside the run (`index.py`) says which rows match and where they lie, DuckDB reads it with
bounded memory, and only the rows of the page at hand are read from the run's JSONL files. Nothing that the
run made is written to; beside it lie the index `.view`, and what people do here: `marks.jsonl`, `audit-plan.json` and
`drafts/`.

How a page joins in:

- A module of its own with `router = APIRouter()`, and one line `app.include_router(…)` in `create_app` (`app.py`).
  The guard (`guard.py`) stands before every route: host, token, and for anything but GET the origin as well.
- A view is a plain `def` (it runs in a thread) that takes `request: Request` and `view: ViewDep` (`state.py`), and
  returns `render(request, "name.html.j2", **context)` (`pages.py`). Errors are raised as `CaiError`: `ConfigError`
  becomes a one-line page with status 400, anything else one with 500. `form(request)` (async, as a dependency:
  `Form = Annotated[dict[str, str], Depends(form)]`) reads a posted form; answer a POST with `go(url)`, which is a 303.
- Templates extend `base.html.j2` (blocks `title`, `main`); links of the head stand in its `nav`. Text of a run goes
  through the filter `visible` where it is shown, and as it is into `value=` of a form. Scripts and styles are files
  in `static/`: the pages' policy lets no inline script or style through.
- The story page includes, for each row that can be marked, `mark.html.j2` with `table`, `row` (the pydantic row) and
  `ref` (where it lies: `ref.stage`, `ref.id`), and for each round of critique `try.html.j2` with `revision` and `done`
  (its RevisionRound), where these templates exist.
"""
