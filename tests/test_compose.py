"""The compose file of the servers: nothing floats, nothing is secret, nothing is open by default."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[1] / "mlflow"
TEXT = (FOLDER / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EXAMPLE = dict(re.findall(r"^(\w+)=(.*)$", (FOLDER / ".env.example").read_text(), re.MULTILINE))
USED = dict(re.findall(r"(?<!\$)\$\{(\w+)([^}]*)\}", TEXT))
SECRET = re.compile(r"PASSWORD|SECRET|ACCESS_KEY|LOGIN|AUTH_STRING")


def _built_from(service: dict[str, Any]) -> list[str]:
    """Images that a service needs from elsewhere."""
    if "build" not in service:
        return [service["image"]]
    return re.findall(r"^FROM (\S+:\S+)", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_pinned_watched_and_started_again(name: str) -> None:
    """Contract: an exact version, a health check, a restart policy, and only ports of the address that is given."""
    service = SERVICES[name]
    images = [service["image"], *_built_from(service)]
    assert all(re.fullmatch(r"[\w./-]+:v?\d+\.\d+(\.\d+)?(-[\w.-]+)?", image) for image in images), images
    assert service["restart"] == "unless-stopped" and service["healthcheck"]["test"][0] == "CMD"
    assert all(port.startswith("${BIND_ADDRESS:-127.0.0.1}:") for port in service.get("ports", []))
    for needed, how in service.get("depends_on", {}).items():
        assert needed in SERVICES and how == {"condition": "service_healthy"}


def test_what_is_kept_is_kept_in_declared_volumes() -> None:
    """Contract: each volume is declared and used, and each file that is mounted exists."""
    mounted = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert {source for source in mounted if not source.startswith(".")} == set(COMPOSE["volumes"])
    assert all((FOLDER / source).is_file() for source in mounted if source.startswith("."))


def test_the_example_names_every_variable_and_no_secret() -> None:
    """Contract: what the compose file asks for stands in .env.example; secrets are empty there and required here."""
    assert set(EXAMPLE) == set(USED)
    assert EXAMPLE["BIND_ADDRESS"] == "127.0.0.1"
    for name in filter(SECRET.search, EXAMPLE):
        assert EXAMPLE[name] == "" and USED[name].startswith(":?"), name
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if SECRET.search(name):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), name


def test_every_secret_reaches_the_databases_script() -> None:
    """Contract: the script takes each role's password from the environment that its service has."""
    wanted = re.findall(r"\\getenv \w+ (\w+)", (FOLDER / "databases.sql").read_text())
    assert len(wanted) == 3 and set(wanted) < set(SERVICES["postgres"]["environment"])


@pytest.mark.parametrize("package", ["mlflow", "prefect"])
def test_the_built_images_bear_the_version_that_is_in_them(package: str) -> None:
    """Contract: the tag is the version of requirements.lock, from which the image is built."""
    lock = (FOLDER.parent / "requirements.lock").read_text()
    (version,) = re.findall(rf"^{package}==(\S+)", lock, re.MULTILINE)
    assert SERVICES[package]["image"] == f"distillery-{package}:{version}"
