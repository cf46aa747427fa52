"""Files for clusters: what they name is there, and the scripts do what they say with stand-ins for the programs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.small_cli import ROOT

pytestmark = pytest.mark.slow

KUBERNETES, SLURM = ROOT / "flows/pools/kubernetes", ROOT / "flows/pools/slurm"
SCRIPTS = sorted(SLURM.iterdir())
ENGINE = """\
import http.server, sys
assert sys.argv[1:3] == ["-m", "vllm.entrypoints.openai.api_server"] and "--tensor-parallel-size" in sys.argv
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def code(script: Path) -> str:
    """A script without its comments."""
    return "\n".join(line for line in script.read_text().splitlines() if not line.startswith("#"))


def manifests() -> list[dict[str, Any]]:
    return [row for path in sorted(KUBERNETES.glob("*.yaml")) for row in yaml.safe_load_all(path.read_text())]


def named(kind: str) -> set[str]:
    return {row["metadata"]["name"] for row in manifests() if row["kind"] == kind}


def template() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((KUBERNETES / "base-job-template.json").read_text())
    return found


def pods() -> list[dict[str, Any]]:
    """The pods of every workload, and of a flow run's Job."""
    made = [
        row["spec"]["template"]["spec"] for row in manifests() if row["kind"] in ("StatefulSet", "Deployment")
    ]
    return [*made, template()["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]]


def test_volumes_keys_and_maps_are_there() -> None:
    """Every claim, key and ConfigMap that a pod names is one of the manifests, every mount one of its volumes."""
    keys = {row["metadata"]["name"]: row["stringData"] for row in manifests() if row["kind"] == "Secret"}
    assert len(pods()) == 3
    for pod in pods():
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        claims = {
            v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v
        }
        assert claims and claims <= named("PersistentVolumeClaim")
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
            for source in container.get("envFrom", []):
                assert source.get("configMapRef", {"name": "cai-prefect"})["name"] in named("ConfigMap")
                assert source.get("secretRef", {"name": "cai-keys"})["name"] in keys
            for variable in container["env"] if isinstance(container.get("env"), list) else []:
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    assert reference["key"] in keys[reference["name"]]
        assert pod.get("serviceAccountName", "cai-worker") in {
            *named("ServiceAccount"),
            "{{ service_account_name }}",
        }
    assert {row["metadata"].get("namespace", "cai") for row in manifests()} == {"cai"} == named("Namespace")


def test_the_service_finds_the_engines() -> None:
    """Selector and labels, port and probe, headless and named by the StatefulSet; docs name real pods."""
    (service,) = (row for row in manifests() if row["kind"] == "Service")
    (engines,) = (row for row in manifests() if row["kind"] == "StatefulSet")
    labels = engines["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels == engines["spec"]["selector"]["matchLabels"]
    assert (
        service["spec"]["clusterIP"] == "None"
        and engines["spec"]["serviceName"] == service["metadata"]["name"]
    )
    (container,) = engines["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    (port,) = service["spec"]["ports"]
    assert ports[port["targetPort"]] == port["port"] and f"--port={port['port']}" in container["args"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": port["targetPort"]}
    name, of = engines["metadata"]["name"], service["metadata"]["name"]
    urls = [f"http://{name}-{n}.{of}.cai.svc:{port['port']}/v1" for n in range(engines["spec"]["replicas"])]
    assert all(url in (ROOT / "docs/scale-out.md").read_text() for url in urls)
    sizes = {
        key: int(value)
        for key, value in (arg[2:].split("=") for arg in container["args"] if "parallel" in arg)
    }
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert sizes["tensor-parallel-size"] * sizes["data-parallel-size"] == gpus


def test_the_job_template_fills_in() -> None:
    """Every placeholder is a variable, every variable of the Job is used, and the image is the worker's."""
    found = template()
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(found["job_configuration"])))
    assert used == set(found["variables"]["properties"])
    (worker,) = (row for row in manifests() if row["kind"] == "Deployment")
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    image = found["variables"]["properties"]["image"]["default"]
    assert container["image"] == image and image in (ROOT / "flows/pools/Dockerfile").read_text()
    mount = pods()[-1]["containers"][0]["volumeMounts"]
    assert (
        mount == container["volumeMounts"]
        and container["workingDir"] == pods()[-1]["containers"][0]["workingDir"]
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script: Path) -> None:
    """bash reads them, and they stop at the first failure."""
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "set -euo pipefail" in script.read_text()


def test_flags_are_flags_of_the_programs() -> None:
    """What vLLM is started with is in its parser, what the worker is started with in Prefect's."""
    engine = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--help=all"]
    environment = {**os.environ, "VLLM_TARGET_DEVICE": "cpu"}
    vllm = subprocess.run(engine, capture_output=True, text=True, check=True, env=environment).stdout
    text = (KUBERNETES / "vllm.yaml").read_text() + code(SLURM / "replicas.sbatch")
    flags = set(re.findall(r"(?<=[ \"\[])--[a-z][a-z-]+", text)) - {
        "--silent",
        "--fail",
        "--max-time",
        "--array",
    }
    assert len(flags) >= 9
    assert not {flag for flag in flags if not re.search(rf"^  {flag}\b", vllm, re.M)}
    worker = [str(Path(sys.executable).parent / "prefect"), "worker", "start", "--help"]
    help_ = subprocess.run(worker, capture_output=True, text=True, check=True).stdout
    text = code(SLURM / "worker.sbatch") + (KUBERNETES / "worker.yaml").read_text()
    flags = set(re.findall(r"(?<=[ \[])--[a-z][a-z-]+", text)) - {"--no-prompt"}
    assert flags == {"--pool", "--type", "--limit", "--with-healthcheck"} and all(
        flag in help_ for flag in flags
    )


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "VLLM_API_KEY": "k", "CAI_ENDPOINTS": str(folder / "endpoints"), **more}


def program(folder: Path, name: str, body: str) -> str:
    """A stand-in program."""
    path = folder / name
    path.write_text(body)
    path.chmod(0o755)
    return str(path)


def until(found: Path, there: bool) -> None:
    """Wait until a folder has a file, or none."""
    deadline = time.monotonic() + 120
    while (found.is_dir() and any(p.suffix != ".new" for p in found.iterdir())) is not there:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def test_an_engine_registers_and_leaves(tmp_path: Path) -> None:
    """Healthy, its address is in the list that a run is given; ended, it is not, and neither is the process."""
    stub = tmp_path / "engine.py"
    stub.write_text(ENGINE)
    python = program(tmp_path, "python", f'#!/bin/bash\nexec {sys.executable} {stub} "$@"\n')
    variables = environment(
        tmp_path, CAI_PYTHON=python, SLURM_JOB_ID=str(os.getpid()), SLURM_ARRAY_TASK_ID="3"
    )
    command = ["bash", str(SLURM / "replicas.sbatch"), "some/model", "--tensor-parallel-size", "2"]
    job = subprocess.Popen(command, env=variables, cwd=tmp_path)
    try:
        until(tmp_path / "endpoints", True)
        shown = program(tmp_path, "cai", '#!/bin/bash\nprintf "%s\\n" "$@"\n')
        run = subprocess.run(
            ["bash", str(SLURM / "run.sbatch"), "1", "c.yaml", "--set", "name=x"],
            env={**variables, "CAI": shown, "SLURM_SUBMIT_DIR": str(ROOT)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
    finally:
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 143
    until(tmp_path / "endpoints", False)
    words = run.stdout.split()
    (endpoints,) = (word for word in words if word.startswith("models.policy.endpoints="))
    port = 20000 + os.getpid() % 20000
    assert re.fullmatch(rf"models\.policy\.endpoints=\[http://\S+:{port}/v1\]", endpoints)
    assert words[:3] == ["run", "c.yaml", "--no-prefect"] and words[-1] == "name=x"


def test_an_engine_that_dies_registers_nothing(tmp_path: Path) -> None:
    """The job fails with it; who waits for the engine is told so."""
    variables = environment(tmp_path, CAI_PYTHON="false", SLURM_JOB_ID="7")
    done = subprocess.run(
        ["bash", str(SLURM / "replicas.sbatch"), "m"], env=variables, cwd=tmp_path, check=False
    )
    assert done.returncode == 1 and not list((tmp_path / "endpoints").iterdir())
    wait = ["bash", str(SLURM / "endpoints.sh"), "2", "0"]
    said = subprocess.run(wait, env=variables, capture_output=True, text=True, check=False)
    assert said.returncode == 1 and "only 0 of 2 engines have registered" in said.stderr


def test_the_worker_ends_with_its_job(tmp_path: Path) -> None:
    """It polls its pool, and is told to stop when the job is."""
    log = tmp_path / "log"
    body = f'trap "echo stopped >> {log}; exit 0" TERM\necho "$@" >> {log}\nfor i in {{1..600}}; do sleep 0.2; done\n'
    stub = program(tmp_path, "prefect", f"#!/bin/bash\n{body}")
    variables = environment(tmp_path, CAI_PREFECT=stub, PREFECT_API_URL="http://127.0.0.1:9/api")
    job = subprocess.Popen(["bash", str(SLURM / "worker.sbatch"), "gpu"], env=variables, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not log.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    job.send_signal(signal.SIGTERM)
    job.wait(60)
    assert log.read_text().splitlines() == [
        "--no-prompt worker start --pool gpu --type process --limit 1",
        "stopped",
    ]
