"""The compose file and the Dockerfile fit each other, the settings and the command line."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.main import get_command

from detector.cli.main import COMMANDS
from detector.runtime.sections import MetricsSettings
from detector.runtime.settings import load_settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]


def test_what_is_asked_for_is_there() -> None:
    assert SERVICES.keys() == {"kafka", "detector", "notify", "model-server", "traffic", "prometheus", "grafana"}


@pytest.mark.parametrize("name", SERVICES)
def test_foreign_images_are_pinned_and_ports_are_local(name: str) -> None:
    service = SERVICES[name]
    if "build" not in service:
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_volumes_and_dependencies_exist(name: str) -> None:
    service = SERVICES[name]
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
    depends = service.get("depends_on", [])
    assert set(depends) <= SERVICES.keys()
    if isinstance(depends, dict):
        assert all("healthcheck" in SERVICES[other] or other == "detector" for other in depends)
    assert "HEALTHCHECK" in DOCKERFILE  # the detector's


@pytest.mark.parametrize("name", OURS)
def test_our_containers_run_with_least_privilege(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "USER 65532:65532" in DOCKERFILE


@pytest.mark.parametrize("name", OURS)
def test_their_environment_is_settings_that_load(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        monkeypatch.setenv(variable, re.sub(r"\$\{\w+:-(\w+)\}", r"\1", value))
    for variable, value in re.findall(r"(WEIRGUARD_\w+)=(\S+)", DOCKERFILE):
        monkeypatch.setenv(variable, value)
    settings = load_settings()
    assert settings.metrics.host == "0.0.0.0"
    if name != "traffic":
        assert settings.kafka.servers == ["kafka:9092"]


@pytest.mark.parametrize("name", OURS)
def test_they_are_built_from_stages_of_the_dockerfile(name: str) -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)
    build = SERVICES[name]["build"]
    assert build["target"] in stages
    assert (ROOT / build["dockerfile"]).is_file()


def _options(name: str) -> set[str]:
    module, _, attribute = COMMANDS[name].path.partition(":")
    app = typer.Typer(add_completion=False)
    app.command()(getattr(import_module(f"detector.cli.{module}"), attribute))
    return {option for parameter in get_command(app).params for option in parameter.opts}


@pytest.mark.parametrize("name", OURS)
def test_their_commands_exist_with_those_options(name: str) -> None:
    command, *arguments = SERVICES[name].get("command", ["run"])
    assert {argument for argument in arguments if argument.startswith("--")} <= _options(command)


def test_the_health_check_asks_the_port_that_is_served() -> None:
    assert f":{MetricsSettings().port}/readyz" in DOCKERFILE
    assert f"EXPOSE {MetricsSettings().port}" in DOCKERFILE


def test_the_service_image_has_no_red_team() -> None:
    stage = DOCKERFILE.split("AS build-service")[1].split("FROM")[0]
    assert "rm -r /app/detector/lab" in stage


@pytest.mark.parametrize("lock", ["deploy/service.lock", "deploy/lab.lock"])
def test_images_hold_the_versions_that_the_tests_ran_with(lock: str) -> None:
    pin = re.compile(r"^([\w.-]+==\S+)", re.MULTILINE)
    tested = set(pin.findall((ROOT / "requirements.lock").read_text()))
    shipped = set(pin.findall((ROOT / lock).read_text()))
    assert shipped
    assert shipped <= tested


@pytest.mark.parametrize("lock", ["requirements.lock", "deploy/service.lock", "deploy/lab.lock"])
def test_locks_are_hashed_and_name_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "--index-url" not in text
    assert "://" not in text
    pins = re.findall(r"^[\w.-]+==", text, re.MULTILINE)
    assert len(re.findall(r"^[\w.-]+==[^\n]*\\\n    --hash=sha256:", text, re.MULTILINE)) == len(pins)
