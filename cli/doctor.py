"""`stylert doctor`: the machine, the backends that run on it, and the commands that install the others."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from stylert.cli.app import JsonFile, app
from stylert.cli.console import print_line, print_table
from stylert.core.errors import StylertError, install_command
from stylert.core.files.outputs import check_output, write_json
from stylert.core.machine.devices import find_gpus
from stylert.core.machine.host import cpu_name, instruction_sets, memory_bytes, usable_cores
from stylert.core.machine.processor_class import processor_class
from stylert.runtime.backends import BACKENDS, backend
from stylert.runtime.layer_forms import RULES

#: Optional package: its purpose and the extra that brings it.
OPTIONAL = {
    "torch": ("train, verify against PyTorch", "train"),
    "triton": ("kernels", "gpu"),
    "cuda-bindings": ("run TensorRT engines", "tensorrt-rtx"),
    "psutil": ("bench", "bench"),
    "av": ("video", "video"),
}


@app.command()
def doctor(json: JsonFile = None) -> None:
    """Show Python, processor, memory, GPUs and every backend, and how to install the ones that are missing."""

    check_output(json, "JSON")
    facts = findings()
    show(facts)
    if json is not None:
        write_json(json, facts)


def findings() -> dict[str, Any]:
    """All that `stylert doctor` finds, as JSON values."""
    driver = find_gpus()
    memory, forms = memory_bytes(), RULES[processor_class()]
    return {
        "schema": 1,
        "stylert": version("stylert"),
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": {
            "name": cpu_name(),
            "cores": usable_cores(),
            "instruction_sets": instruction_sets(),
            "class": processor_class().name,
            "forms": {"rule": forms.name, "reason": forms.reason},
        },
        "memory": None if memory is None else {"total_bytes": memory[0], "available_bytes": memory[1]},
        "gpu": {
            "cuda": driver.cuda_version,
            "problem": driver.problem,
            "gpus": [{**asdict(gpu), "target": gpu.target} for gpu in driver.gpus],
        },
        "backends": [_backend_findings(name) for name in BACKENDS],
        "packages": [_package_findings(name, *what) for name, what in OPTIONAL.items()],
    }


def show(facts: dict[str, Any]) -> None:
    """Print the findings for people."""
    cpu, memory, gpu = facts["cpu"], facts["memory"], facts["gpu"]
    sets = cpu["instruction_sets"]
    python = f"{facts['python']['implementation']} {facts['python']['version']}"
    print_line(f"stylert {facts['stylert']}, {python}, {facts['system']}")
    vectors = "instruction sets unknown" if sets is None else ", ".join(sets) or "no vector extension of use"
    print_line(f"cpu: {cpu['name']}, {cpu['cores']} cores for this process, {vectors}")
    print_line(f"class {cpu['class']}: onnxruntime fp32 runs {cpu['forms']['rule']} ({cpu['forms']['reason']})")
    if memory is not None:
        total, free = memory["total_bytes"] / 2**30, memory["available_bytes"] / 2**30
        print_line(f"memory: {total:.1f} GiB, {free:.1f} available")
    for one in gpu["gpus"]:
        size = f"{one['memory'] / 2**30:.1f} GiB"
        print_line(f"gpu {one['index']}: {one['name']}, {one['target']}, {size}, CUDA {gpu['cuda']}")
    if gpu["problem"]:
        print_line(f"gpu: {gpu['problem']}")
    print_table(
        "backends",
        ["<backend", "<version", "<state", "<precisions"],
        [(b["name"], b["version"] or "", b["state"], ", ".join(b["precisions"])) for b in facts["backends"]],
    )
    print_table(
        "optional packages",
        ["<package", "<version", "<for"],
        [(p["name"], p["version"] or "", p["for"]) for p in facts["packages"]],
    )
    for item in facts["backends"] + facts["packages"]:
        if item["note"]:
            print_line(f"{item['name']}: {item['note']}")


def _backend_findings(name: str) -> dict[str, Any]:
    """`state`: runs; builds, where only running lacks something; missing; or broken, where what is installed fails."""
    chosen = backend(name)
    found: dict[str, Any] = {
        "name": name,
        "version": None,
        "precisions": list(chosen.facts.precisions),
        "install": None,
        "note": None,
    }
    if not chosen.available():
        install = chosen.facts.install
        return {**found, "state": "missing", "install": install, "note": f"not installed: {install}"}
    try:
        found["version"] = chosen.version()
        unavailable_reason = chosen.unavailable_reason()
    except StylertError as e:
        return {**found, "state": "broken", "note": str(e)}
    if unavailable_reason is None:
        return {**found, "state": "runs"}
    return {**found, "state": "builds" if chosen.targets() else "waits for a GPU", "note": unavailable_reason}


def _package_findings(name: str, purpose: str, extra: str) -> dict[str, Any]:
    try:
        return {"name": name, "version": version(name), "for": purpose, "install": None, "note": None}
    except PackageNotFoundError:
        install = install_command(extra)
        return {"name": name, "version": None, "for": purpose, "install": install, "note": f"not installed: {install}"}
