"""Which paths are a target: every one under which a real application answers it."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from detector.serving.asgi import Target, WeirguardMiddleware, kserve_routes, route
from detector.serving.targets import app_root_of, find_target, tidy
from tests.serving.stage import ANSWER, Application, Guarded

SPELLINGS = [
    "/predict",
    "/predict/",
    "//predict",
    "/predict//",
    "/pre%64ict",
    "/predict%0A",
    "/predict%0a%0a",
    "/predict%20",
    "/predict?x=1",
    "/predict;v=1",
    "/./predict",
    "/x/../predict",
    "/PREDICT",
    "/%2Fpredict",
    "/predict%2F",
    "/pre%2564ict",
    "/api/predict",
    "/api/predict/",
    "/api/predict%0A",
    "/api//predict",
    "/api/api/predict",
]


async def predict(request: Request) -> JSONResponse:
    await request.body()
    return JSONResponse(ANSWER)


def starlette() -> Application:
    return Starlette(routes=[Route("/predict", predict, methods=["POST"])])


def starlette_of_a_mount() -> Application:
    return Starlette(routes=[Mount("/predict", Starlette(routes=[Route("/", predict, methods=["POST"])]))])


def fastapi(root_path: str = "") -> FastAPI:
    app = FastAPI()
    app.root_path = root_path  # the parameter warns that it is deprecated
    app.add_api_route("/predict", predict, methods=["POST"])
    return app


def fastapi_at_a_prefix() -> Application:
    return GZipMiddleware(fastapi("/api"), minimum_size=1)


def fastapi_sub_application() -> Application:
    app = FastAPI()
    app.mount("/api", fastapi())
    return app


APPLICATIONS = [starlette, starlette_of_a_mount, fastapi, fastapi_at_a_prefix]


@pytest.mark.parametrize("make", APPLICATIONS)
@pytest.mark.parametrize("root_path", ["", "/api", "/api/"])
def test_no_spelling_is_answered_unseen(make: Any, root_path: str) -> None:
    answered = 0
    for spelling in SPELLINGS:
        guarded = Guarded(make())
        response = guarded.ask(spelling, root_path=root_path)
        rows, _ = guarded.accounts
        assert rows == (2 if response.status_code == 200 else 0), spelling
        answered += response.status_code == 200
    assert answered or root_path == "/api/"


def test_an_application_answers_a_path_that_ends_in_a_newline() -> None:
    """What makes the spelling above worth a test: were it not so, the test would show nothing."""
    guarded = Guarded(starlette())
    assert guarded.ask("/predict%0A").status_code == 200


def inside_a_mount(app: Application) -> Application:
    return Starlette(routes=[Mount("/v1", routes=[Mount("/deep", app)])])


@pytest.mark.parametrize("make", [starlette, fastapi])
@pytest.mark.parametrize("root_path", ["", "/api"])
def test_mounted_below_other_mounts(make: Any, root_path: str) -> None:
    guarded = Guarded(make())
    around = inside_a_mount(guarded.app)
    assert guarded.ask(f"{root_path}/v1/deep/predict", root_path=root_path, around=around).status_code == 200
    assert guarded.accounts == (2, {})


@pytest.mark.parametrize("tenant", ["acme", "%20", "..", "a;b", "%2541", "%25", ".", "a%0Ab", "x%20", "%3B"])
def test_below_a_mount_of_which_the_caller_chooses_the_name(tenant: str) -> None:
    guarded = Guarded(starlette())
    around = Starlette(routes=[Mount("/{tenant}", guarded.app)])
    response = guarded.ask(f"/{tenant}/predict", around=around)
    assert guarded.accounts == (2 if response.status_code == 200 else 0, {})


def test_around_mounts_the_path_is_the_whole_one() -> None:
    for make in (fastapi_sub_application, lambda: Starlette(routes=[Mount("/api", starlette())])):
        guarded = Guarded(make(), target=route("/api/predict", "digits", "1"))
        assert guarded.ask("/api/predict").status_code == 200
        assert guarded.ask("/root/api/predict", root_path="/root").status_code == 200
        assert guarded.accounts == (4, {})


def in_the_list_of(kind: type[Starlette]) -> tuple[Guarded, Application]:
    """The middleware in an application's own list instead of around it."""
    guarded = Guarded(starlette())
    mine = guarded.app

    class Listed(WeirguardMiddleware):
        def __init__(self, app: Application) -> None:
            vars(self).update(vars(mine))
            self._app = app

    app = kind(middleware=[Middleware(Listed)])
    app.router.routes.append(Route("/predict", predict, methods=["POST"]))
    return guarded, app


@pytest.mark.parametrize("kind", [Starlette, FastAPI])
@pytest.mark.parametrize("root_path", ["", "/api"])
def test_in_the_middleware_list(kind: type[Starlette], root_path: str) -> None:
    guarded, app = in_the_list_of(kind)
    assert guarded.ask(f"{root_path}/predict%0A", root_path=root_path, around=app).status_code == 200
    assert guarded.accounts == (2, {})


def test_a_prefix_that_an_older_server_leaves_out_of_the_path() -> None:
    found = find_target(route("/predict", "m", "1"), {"path": "/predict", "root_path": "/api"}, "")
    assert found == ("m", "1")


def test_a_target_may_be_named_with_the_prefix_too() -> None:
    found = find_target(route("/api/predict", "m", "1"), {"path": "/api/predict", "root_path": "/api"}, "")
    assert found == ("m", "1")


@pytest.mark.parametrize(
    ("path", "root_path"),
    [("/predictions", ""), ("/x/predict", ""), ("/apipredict", "/api"), ("/api2/predict", "/api"), ("/", ""), ("", "")],
)
def test_other_paths_are_no_target(path: str, root_path: str) -> None:
    assert find_target(route("/predict", "m", "1"), {"path": path, "root_path": root_path}, "") is None


def test_a_function_of_ones_own_sees_the_other_spellings_too() -> None:
    targets = {"/predict": Target("digits", "1")}
    found = find_target(lambda scope: targets.get(scope["path"]), {"path": "/api/predict/\n", "root_path": "/api"}, "")
    assert found == ("digits", "1")


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/t/{tenant}/predict", "/t/acme/predict"),
        ("/t/{tenant:int}/predict", "/t/7/predict/"),
        ("/files/{rest:path}", "/files/a/b"),
        ("/", "/"),
        ("/predict/", "/predict"),
    ],
)
def test_parameters_of_a_route(pattern: str, path: str) -> None:
    assert find_target(route(pattern, "m", "1"), {"path": path}, "") == ("m", "1")


@pytest.mark.parametrize("path", ["/t/predict", "/t/a/b/predict", "/t//predict"])
def test_a_parameter_is_one_segment(path: str) -> None:
    assert find_target(route("/t/{tenant}/predict", "m", "1"), {"path": path}, "") is None


def test_kserve_behind_a_prefix() -> None:
    scope = {"path": "/api/v1/models/digits/versions/2:predict\n", "root_path": "/api"}
    assert find_target(kserve_routes(), scope, "") == ("digits", "2")


def test_a_tidy_path_is_left_alone_and_tidying_ends() -> None:
    for path in ("/predict", "/v1/models/a:predict", "/a.b/c"):
        assert tidy(path) is path
    for path in ("", "/", "//", "/a/../..", "a", "/a;b/c;d", "/%2e%2e/a"):
        assert tidy(tidy(path)) == tidy(path)
        assert tidy(path).startswith("/")


def test_the_prefix_of_an_application_is_found_behind_what_wraps_it() -> None:
    assert app_root_of(GZipMiddleware(GZipMiddleware(fastapi("/api")))) == "/api"
    assert app_root_of(object()) == ""


def test_a_target_that_matches_nothing_is_said_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    guarded = Guarded(starlette(), target=route("/prediction", "digits", "1"))
    for _ in range(120):
        guarded.ask()
    assert guarded.app.counters.snapshot()["unmatched"] == 120
    assert [record.getMessage()[:31] for record in caplog.records].count("none of the first 100 requests ") == 1


def test_a_target_that_matches_is_not_complained_of(caplog: pytest.LogCaptureFixture) -> None:
    guarded = Guarded(starlette())
    guarded.ask()
    for _ in range(120):
        guarded.ask("/elsewhere")
    assert "none of the first" not in caplog.text
