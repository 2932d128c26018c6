"""Finds the model of a request by its path, in any spelling of the path.

An application answers one route under several paths: below a prefix that it strips, with ``//`` or a slash at the end
where a proxy normalises paths, with a newline at the end (the ``$`` of a route's pattern lets it pass). A path that the
application knows and the middleware does not would pass the gate unseen. So a target is looked up under each path that
the application may use for the request. An extra match does no harm: requests without an answer are not logged.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, NamedTuple
from urllib.parse import unquote

Scope = MutableMapping[str, Any]


class Target(NamedTuple):
    """The model of a request."""

    model: str
    model_version: str


FindTarget = Callable[[Scope], Target | None]


def route(path: str, model: str, model_version: str) -> FindTarget:
    """Returns the target of requests to ``path``; other paths are passed through.

    ``path`` is as in the application, without a prefix that ``--root-path`` or a mount adds. A parameter, ``{name}``,
    matches one segment and ``{name:path}`` for the rest. Case does not matter.
    """
    target = Target(model, model_version)
    pieces = re.split(r"(\{\w+(?::\w+)?\})", tidy(path))
    pattern = re.compile("".join(map(_piece, pieces)), re.IGNORECASE)
    return lambda scope: target if scope["path"] == path or pattern.fullmatch(scope["path"]) else None


def _piece(text: str) -> str:
    if not text.startswith("{"):
        return re.escape(text)
    return ".+" if text.endswith(":path}") else "[^/]+"


_KSERVE = re.compile(
    r"/v1/models/([^/]+?)(?:/(?:versions|labels)/([^/]+?))?:(?:predict|classify|regress|explain)"
    r"|/v2/models/([^/]+)(?:/versions/([^/]+))?/(?:infer|infer_stream|explain)"
)


def kserve_routes(model_version: str = "1") -> FindTarget:
    """Returns the model in the path: ``/v1/models/M[/versions/V]:predict``, ``/v2/models/M[/versions/V]/infer``.

    The other verbs that make a server answer with its model are matched too. ``model_version`` is used where the path
    names none. Only for servers that refuse an unknown name: if any name gets an answer, the caller chooses which model
    the gate checks; such an application uses ``route("/v1/models/{name}:predict", ...)``.
    """

    def find(scope: Scope) -> Target | None:
        match = _KSERVE.fullmatch(scope["path"])
        return Target(match[1] or match[3], match[2] or match[4] or model_version) if match else None

    return find


def find_target(find: FindTarget, scope: Scope, app_root: str) -> Target | None:
    """Returns the target that ``find`` gives for ``scope``, or for the first other spelling of its path that it knows.

    ``app_root``: the prefix that the application itself strips, besides the server's in ``scope``.
    """
    target = find(scope)
    if target is None:
        path, root = scope["path"], scope.get("root_path") or ""
        if not (root or app_root or _UNTIDY.search(path)):
            return None
        for other in _spellings(path, (root, app_root)):
            if other != path:
                target = target or find({**scope, "path": other, "root_path": ""})
    return target


def _spellings(path: str, roots: tuple[str, str]) -> Iterator[str]:
    whole = tidy(path)
    yield whole
    for root in filter(None, roots):  # as it stands, as routers take it off, and tidied
        yield from _without(path, root.rstrip("/"))
        yield from _without(whole, tidy(root).rstrip("/"))


def _without(path: str, prefix: str) -> Iterator[str]:
    if prefix and (path + "/").startswith(prefix + "/"):
        yield tidy(path[len(prefix) :])


_UNTIDY = re.compile(r"//|/\.|.[/\s]$|[%;\n]|^[^/]|^$")


def tidy(path: str) -> str:
    """Returns ``path`` with one slash where there are several, no dot segments, parameters, escapes or end."""
    if not _UNTIDY.search(path):
        return path
    path = re.sub(r";[^/]*", "", unquote(path)).strip()
    return posixpath.normpath("/" + path.lstrip("/"))


def app_root_of(app: Any) -> str:
    """Returns the prefix that ``app``, or what it wraps, strips by itself: ``FastAPI(root_path=...)``; else empty."""
    for _ in range(_WRAPPERS):
        root = getattr(app, "root_path", None)
        if isinstance(root, str):
            return root
        app = getattr(app, "app", None)
    return ""


_WRAPPERS = 50
"""The most middlewares around an application that are unwrapped; each holds the next one as ``app``."""
