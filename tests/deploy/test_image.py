"""The image: its file is clean, its build's steps work, and what comes out runs as nobody in particular, read-only."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.deploy.dockerfile import passes, stages
from tests.deploy.image import AS_ROOT, DOCKERFILE, ROOT, UID, Image
from tests.deploy.running import get, until


def pins(file: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9][\w.-]*)==(\S+)", (ROOT / file).read_text(), re.MULTILINE))


@pytest.fixture(scope="module")
def image():
    # Not below pytest's folder, which each session closes to other users again, and the image's user is another.
    with tempfile.TemporaryDirectory(prefix="skinflint-image-") as folder:
        made = Image(Path(folder))
        made.folder.chmod(0o711)
        made.make()
        yield made


def test_a_linter_has_nothing_to_say_of_the_dockerfile():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_runs_as_a_number_that_is_not_root_and_by_exec():
    _, final = stages(DOCKERFILE.read_text())
    assert final.words("USER") == [[f"{UID}:{UID}"]]
    assert final.exec_form("ENTRYPOINT") == ["skinflint"]
    assert final.exec_form("CMD") == ["run", "--config", "/etc/skinflint/config.yaml"]


def test_the_image_installs_what_the_lock_holds_less_what_only_developers_need():
    everything, installed = pins("requirements.lock"), pins("deploy/requirements.lock")
    assert len(installed) > 30
    assert installed.items() < everything.items()
    assert not {"pytest", "mypy", "playwright", "uv"} & installed.keys()
    lock = (ROOT / "deploy/requirements.lock").read_text()
    assert lock.count("--hash=sha256:") >= len(installed)
    assert "://" not in lock
    for name in ("numba", "numpy", "kafka-python"):
        assert version(name) == installed[name]


def test_the_builder_sees_neither_state_nor_secrets_nor_history():
    ignore = (ROOT / ".dockerignore").read_text()
    hidden = (".git/config", "state/skinflint.db", ".venv/bin/python", "tests/conftest.py", "deploy/secrets/slack", ".env",
              "service/__pycache__/app.cpython-311.pyc", "kernels/notes.pyc")  # fmt: skip
    assert [path for path in hidden if passes(path, ignore)] == []
    shown = ("service/app.py", "service/http/page/page.js", "service/ingest/fields.yaml", "config.yaml", "LICENSE")
    assert [path for path in shown if not passes(path, ignore)] == []


def test_the_service_runs_as_another_user_on_a_read_only_root_and_compiles_nothing(image):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    environment = {"SKINFLINT__HTTP__PORT": str(port)}
    warm = sorted(path.name for path in image.path("/opt/skinflint/kernels").rglob("*.nbc"))
    assert len(warm) > 20
    command = [*image.final.exec_form("ENTRYPOINT"), *image.final.exec_form("CMD")]
    service = image.contained([image.here(word) for word in command], environment)
    try:
        until(lambda: get(f"http://127.0.0.1:{port}/readyz"), service, "ready")
        assert b"skinflint_gpus" in urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read()
        assert image.done(image.final.exec_form("HEALTHCHECK"), environment) == (0, "", "")
    finally:
        service.terminate()
        _, logged = service.communicate(timeout=20)
    assert service.returncode == 0, logged.decode()[-2000:]
    levels = {json.loads(line)["level"] for line in logged.splitlines()}
    assert levels == {"info"}

    owners = {path.stat().st_uid for place in ("/var/lib/skinflint", "/tmp") for path in image.path(place).rglob("*")}
    assert owners == {UID if AS_ROOT else os.getuid()}
    (copied,) = image.path("/tmp").iterdir()
    assert sorted(path.name for path in copied.rglob("*.nbc")) == warm
    assert (image.path("/var/lib/skinflint/state").stat().st_mode & 0o777) == 0o700


def test_the_probe_of_the_image_fails_where_nothing_answers(image):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    code, _, errors = image.done(image.final.exec_form("HEALTHCHECK"), {"SKINFLINT__HTTP__PORT": str(port)})
    assert code == 1
    assert "Connection refused" in errors


def test_the_configuration_in_the_image_is_valid_there(image):
    command = ["skinflint", "check-config", "--config", image.here(image.final.exec_form("CMD")[2])]
    assert image.done(command, {}) == (0, "the configuration is valid\n", "")
    assert image.path("/etc/skinflint/config.yaml").read_bytes() == (ROOT / "config.yaml").read_bytes()
