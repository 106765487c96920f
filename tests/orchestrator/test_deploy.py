"""The examples for operators, as far as they can be checked where there is no systemd, no container and no cluster."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tests.orchestrator.command_lines import parse
from tests.orchestrator.kuberay_schema import RAY_CLUSTER

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "orchestrator/deploy"
UNITS = sorted([*DEPLOY.glob("*.service"), *DEPLOY.glob("*.timer")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COMMAND = "/opt/loraloom/bin/loraloom"


def directives(unit: Path) -> dict[str, list[str]]:
    """Name → values of a unit file."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze, of Debian's systemd")
def test_systemd_understands_every_line_of_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        # It looks whether what is to be run is there.
        (tmp_path / unit.name).write_text(unit.read_text(encoding="utf-8").replace(COMMAND, sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(tmp_path / unit.name for unit in UNITS)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning", "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    # Unknown names are told, and no failure.
    told = [line for line in (done.stdout + done.stderr).splitlines() if str(tmp_path) in line]
    assert (done.returncode, told) == (0, [])


def test_the_units_run_commands_that_exist() -> None:
    lines = [shlex.split(value) for unit in UNITS for value in directives(unit).get("ExecStart", [])]
    assert len(lines) == 3
    for command, *words in lines:
        assert command == COMMAND
        assert parse(words)
    served = parse(lines[[words[1] for words in lines].index("serve")][1:])
    unit = directives(DEPLOY / "loraloom.service")
    assert served["data_dir"] == Path("/var/lib") / unit["StateDirectory"][0]
    assert served["token_file"].parent == Path("/etc") / unit["ConfigurationDirectory"][0]
    # In a longer folder Ray's sockets would be put below /tmp.
    assert len(str(served["data_dir"] / "ray")) <= 38


def test_the_unit_lets_workers_outlive_the_service_and_saves_within_its_grace() -> None:
    unit = directives(DEPLOY / "loraloom.service")
    assert unit["KillMode"] == ["process"]
    assert unit["Restart"] == ["on-failure"]
    assert unit["OOMPolicy"] == ["continue"]
    [words] = [shlex.split(value) for value in unit["ExecStart"]]
    assert float(unit["TimeoutStopSec"][0]) >= parse(words[1:])["grace"] + 20
    # Each of these was seen, or is known, to break torch, CUDA, or workers that live on.
    breaks = {"MemoryDenyWriteExecute", "PrivateDevices", "DevicePolicy", "ProtectClock", "PrivateTmp", "PrivateIPC"}
    assert not breaks & unit.keys()


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def test_the_image_copies_what_there_is_installs_what_there_is_and_serves() -> None:
    found = instructions()
    assert {name for name, _ in found} <= {
        "FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD",
    }  # fmt: skip
    let_in = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    copied = {
        source
        for name, value in found
        if name == "COPY" and not value.startswith("--from")
        for source in value.split()[:-1]
    }
    assert copied == let_in
    assert all((ROOT / source).exists() for source in copied)
    packages = PROJECT["optional-dependencies"].keys()
    [install] = [value for name, value in found if name == "RUN" and "pip install" in value]
    [extras] = re.findall(r'"\.\[([a-z0-9,]+)\]"', install)
    assert set(extras.split(",")) <= packages
    for name, value in found:
        if name == "RUN":
            subprocess.run(["sh", "-n", "-c", value], check=True)
    [entry] = [json.loads(value) for name, value in found if name == "ENTRYPOINT"]
    [command] = [json.loads(value) for name, value in found if name == "CMD"]
    assert entry[-1] == "loraloom"
    served = parse(command)
    assert served["host"] == "0.0.0.0"
    assert served["token_file"] is not None
    [check] = [json.loads(value.split("CMD", 1)[1]) for name, value in found if name == "HEALTHCHECK"]
    compile(check[2], "HEALTHCHECK", "exec")
    python = next(value for name, value in found if name == "FROM").split(":")[1].split("-")[0]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)


def options_of_ray() -> dict[str, list[str]]:
    """By verb; in a process of its own, since this one may not import ray yet."""
    code = "import json, ray.scripts.scripts as s; print(json.dumps({n: [o for p in c.params for o in p.opts] "
    code += "for n, c in s.cli.commands.items()}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_rays_cluster_file_is_one_and_starts_ray_with_options_that_it_has() -> None:
    config = yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text(encoding="utf-8"))
    package = find_spec("ray")
    assert package is not None
    assert package.origin is not None
    schema = json.loads((Path(package.origin).parent / "autoscaler/ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(config, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**config, "max_worker": 2}, schema)
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    for command in [*starts, *config["setup_commands"]]:
        subprocess.run(["sh", "-n", "-c", command], check=True)
    page = (DEPLOY / "README.md").read_text(encoding="utf-8")
    used = {
        (verb, option)
        for text in (*starts, *re.findall(r"\bray (?:start|up|stop|get-auth-token)[^\n#`]*", page))
        for verb, options in re.findall(r"\bray (start|up|stop|get-auth-token)\b([^\n#`;|&]*)", text)
        for option in re.findall(r"--[a-z-]+", options) or [""]
    }
    assert {"start", "up", "stop", "get-auth-token"} == {verb for verb, _ in used}
    known = options_of_ray()
    assert not [(verb, option) for verb, option in used if option and option not in known[verb]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)


def test_kuberays_cluster_has_fields_that_exist_and_names_that_meet() -> None:
    text = (DEPLOY / "kuberay.yaml").read_text(encoding="utf-8")
    claim, network, cluster = yaml.safe_load_all(text)
    jsonschema.validate(cluster, RAY_CLUSTER)
    name, spec = cluster["metadata"]["name"], cluster["spec"]
    [ray] = [one for one in PROJECT["dependencies"] if one.startswith("ray")]
    assert SpecifierSet(ray.removeprefix("ray")).contains(spec["rayVersion"])
    assert network["spec"]["selector"] == {"ray.io/cluster": name, "ray.io/node-type": "head"}
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounted = {
            mount["name"]
            for container in (*pod.get("initContainers", []), *pod["containers"])
            for mount in container["volumeMounts"]
        }
        assert mounted == volumes
        assert pod["containers"][0]["name"].startswith("ray-")
    head = groups[0]["template"]["spec"]
    claims = [
        volume["persistentVolumeClaim"]["claimName"] for volume in head["volumes"] if "persistentVolumeClaim" in volume
    ]
    assert claims == [claim["metadata"]["name"]]
    ray_head, service = head["containers"]
    # The sockets and the object store of the node that the service is a process of.
    shared = {mount["mountPath"]: mount["name"] for mount in ray_head["volumeMounts"]}
    assert shared.items() <= {mount["mountPath"]: mount["name"] for mount in service["volumeMounts"]}.items()
    served = parse(service["args"])
    assert served["host"] == "0.0.0.0"
    assert served["ray_address"] == "$(POD_IP):6379"
    assert "POD_IP" in {one["name"] for one in service["env"]}
    [token] = [one["valueFrom"]["secretKeyRef"] for one in service["env"] if one["name"] == "RAY_AUTH_TOKEN"]
    assert token == {"name": name, "key": "auth_token"}
    [copied] = [container["command"] for container in head["initContainers"]]
    assert copied[-1] == str(served["token_file"])
    assert network["metadata"]["name"] in served["name"]
    secrets = set(re.findall(r"kubectl create secret generic ([a-z-]+)", text))
    used = {volume["secret"]["secretName"] for volume in head["volumes"] if "secret" in volume} | {
        one["secretRef"]["name"]
        for group in groups
        for container in group["template"]["spec"]["containers"]
        for one in container.get("envFrom", [])
    }
    assert secrets == used


def test_the_page_names_files_that_are_there() -> None:
    page = (DEPLOY / "README.md").read_text(encoding="utf-8")
    table = page.split("|---|---|", 1)[1].split("\n\n", 1)[0]
    named = set(re.findall(r"`([A-Za-z.-]+)`", "".join(row.split("|")[1] for row in table.splitlines() if row)))
    assert named == {path.name for path in DEPLOY.iterdir()} - {"README.md", "Dockerfile.dockerignore"}


def test_the_service_stands_in_an_empty_folder_of_its_own() -> None:
    found = directives(DEPLOY / "loraloom.service")
    [name] = found["RuntimeDirectory"]
    # systemd makes that folder at each start and removes it at the end.
    assert found["WorkingDirectory"] == [f"%t/{name}"]
