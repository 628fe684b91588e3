"""The files for containers, systemd and Compose are well-formed, name what exists, and their commands run."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from stylert.runtime.bundle import Bundle

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
INSTRUCTIONS = {"FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
KEY = "correct horse battery"


def instructions() -> list[tuple[str, str]]:
    """The instructions of the container file, with continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Containerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def last(name: str) -> str:
    return [rest for instruction, rest in instructions() if instruction == name][-1]


def unit() -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "stylert.service")
    assert parser.sections() == ["Unit", "Service", "Install"]
    return dict(parser["Service"])


@contextmanager
def started(command: list[str]) -> Iterator[str]:
    """A server of one of the commands, with this environment's stylert. Gives its address."""
    assert Path(command[0]).name == "stylert"
    arguments = [sys.executable, "-P", "-m", "stylert.cli.main", *command[1:]]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert " at http://" in line, process.communicate()[1]
            yield line.split(" at ")[1].split(",")[0].strip()
            process.terminate()
            process.communicate(timeout=60)
            assert process.returncode == 0
        finally:
            if process.poll() is None:
                process.kill()


def test_the_container_file_has_known_instructions_and_sources_and_runs_as_a_user_of_its_own() -> None:
    assert {name for name, _ in instructions()} <= INSTRUCTIONS
    for name, rest in instructions():
        if name == "COPY":
            assert (ROOT / rest.split()[0]).exists()
        if name == "FROM":
            assert re.match(r"\S+:\d", rest), "an image without a version"
    assert last("USER") not in ("0", "root")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r"\.whl\)\[([\w,]+)\]", (DEPLOY / "Containerfile").read_text()):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_the_entry_point_serves_and_its_health_check_sees_it(bundle: Bundle) -> None:
    entry = json.loads(last("ENTRYPOINT"))
    entry[entry.index("--port") + 1] = "0"  # any that is free
    check = json.loads(last("HEALTHCHECK").split(" CMD ")[1])
    with started([*entry, f"faces={bundle.path}", "--backend", "onnxruntime", "--threads", "1"]) as url:
        port = url.rsplit(":", 1)[1]
        code = check[2].replace(":8000", f":{port}")
        assert subprocess.run([sys.executable, *check[1:2], code], timeout=60).returncode == 0
    assert subprocess.run([sys.executable, *check[1:2], code], timeout=60, capture_output=True).returncode != 0


def test_the_unit_starts_the_server_with_its_key(bundle: Bundle, tmp_path: Path) -> None:
    service = unit()
    (tmp_path / "api-key").write_text(KEY)
    command = shlex.split(service["ExecStart"].replace("${CREDENTIALS_DIRECTORY}", str(tmp_path)))
    command[command.index("--port") + 1] = "0"
    command = [word.replace("/srv/stylert/faces", str(bundle.path)) for word in command]
    with started([*command, "--backend", "onnxruntime", "--threads", "1"]) as url:
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert httpx.get(f"{url}/v1/models", headers={"x-api-key": KEY}).json()["models"][0]["name"] == "faces"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_no_mistake_in_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "stylert.service").read_text().replace("/opt/stylert/venv/bin/stylert", "/bin/true")
    (tmp_path / "stylert.service").write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "stylert.service")], capture_output=True, text=True, timeout=60
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "stylert.service" in line]
    assert not ours


def test_the_compose_file_names_what_exists_and_options_that_the_command_has() -> None:
    yaml = pytest.importorskip("yaml", reason="needs the package pyyaml")
    document = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    service = document["services"]["stylert"]
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert set(service["secrets"]) == set(document["secrets"])
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text().split()
    for file in [secret["file"] for secret in document["secrets"].values()]:
        assert Path(file).name in ignored, "a secret would come into the image"
    options = [word for word in [*json.loads(last("ENTRYPOINT")), *service["command"]] if word.startswith("--")]
    source = (ROOT / "cli" / "serve.py").read_text()
    assert all(f"{option[2:].replace('-', '_')}:" in source for option in options)
