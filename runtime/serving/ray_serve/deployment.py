"""Writes a bundle as an application of Ray Serve: `serve.yaml`, and the bundle beside it.

Ray imports `stylert.runtime.serving.ray_serve.application` from the installed package, so every node needs stylert with its extra
`ray`, and the bundle at the path that the configuration names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylert.core.errors import InputError, shown
from stylert.core.files.marks import marked_directory
from stylert.core.files.outputs import document_text
from stylert.runtime.bundle import MANIFEST, Bundle
from stylert.runtime.media.recipes import bundle_hash
from stylert.runtime.serving.setting_ranges import check_settings

CONFIGURATION = "serve.yaml"
IMPORT_PATH = "stylert.runtime.serving.ray_serve.application:application"
DEPLOYMENT = "Images"
#: Written into each folder, so that a later run knows it as its own.
MARK = "stylert-ray.json"
#: Seconds between two health checks of a replica, and until one counts as failed.
HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 5, 15
OWN_RANGES: dict[str, tuple[float, float]] = {
    "min_replicas": (1, 4096),
    "max_replicas": (1, 4096),
    "port": (1, 65535),
    "stop_seconds": (1, 3600),
    "timeout_seconds": (1, 3600),
}


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """How Ray runs the application.

    Attributes:
        name: Name of the application.
        backend: Backend of `Generator`, or `auto`.
        precision: The precision; None for fp32, or the first that the bundle has.
        threads: Processors of a replica, and CPU threads of its networks.
        max_batch: Images in one call.
        max_delay_ms: How long an image may wait for others to fill its batch.
        min_replicas: Least number of replicas.
        max_replicas: Greatest number. Between the two, it follows the load.
        host: Address at which every node accepts requests.
        port: Port of it.
        timeout_seconds: Seconds for an answer. A call of the network that takes longer makes its replica unhealthy.
        stop_seconds: Seconds that a replica has for the requests that it has taken, before it ends.
        place: Path of the folder on the nodes; None for that where it is written.

    Raises:
        InputError: A value is out of range.
    """

    name: str
    backend: str = "auto"
    precision: str | None = None
    threads: int = 1
    max_batch: int = 8
    max_delay_ms: float = 0.0
    min_replicas: int = 1
    max_replicas: int = 1
    host: str = "127.0.0.1"
    port: int = 8000
    timeout_seconds: float = 60.0
    stop_seconds: float = 60.0
    place: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.name):
            raise InputError(f"an application has a name of letters, digits, - and _, not {shown(self.name)}: use --name")
        check_settings(self, OWN_RANGES)
        if self.max_replicas < self.min_replicas:
            raise InputError(f"max_replicas is at least min_replicas, {self.min_replicas}, not {self.max_replicas}")


def write_application(bundle: Bundle, out: str | Path, options: RayOptions) -> str:
    """Write the folder. It replaces one that was written before, and no other folder.

    Args:
        bundle: The bundle. Its files are copied, and their hashes checked.
        out: The folder.
        options: How Ray runs the application.

    Returns:
        The path of the configuration.

    Raises:
        InputError: The bundle lacks the precision, or takes noise as inputs.
        BundleError: A file of the bundle is damaged.
        OutputError: The folder cannot be written, or holds other files.
    """
    bundle.check_no_noise_inputs()
    precision = options.precision or bundle.default_precision
    bundle.precision(precision)  # refuses one that is not there
    place = Path(options.place) if options.place is not None else Path(os.path.realpath(out))
    if document_text(str(place)) != str(place):  # no YAML can hold it
        raise InputError(f"the nodes cannot read {shown(str(place))}: the folder needs a name in UTF-8; see also --place")
    with marked_directory(out, MARK, [bundle.path]) as folder:
        copy = folder / "bundle"
        copy.mkdir()
        for name in (MANIFEST, *bundle.files):
            source = bundle.path / name if name == MANIFEST else bundle.checked_file(name)
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy / name)
        content = configuration(str(place / "bundle"), bundle_hash(bundle), precision, options)
        (folder / CONFIGURATION).write_text("# serve deploy serve.yaml\n" + yaml_text(content), encoding="utf-8")
    return str(Path(out) / CONFIGURATION)


def configuration(bundle: str, digest: str, precision: str, options: RayOptions) -> dict[str, Any]:
    """The configuration of Ray Serve.

    The hash of the bundle is an argument. So another bundle changes the configuration, and `serve deploy` replaces the replicas one
    after another.

    Args:
        bundle: Path of the bundle on the nodes.
        digest: The sha256 of its `bundle.json`.
        precision: The precision.
        options: How Ray runs the application.
    """
    arguments = {
        "bundle": bundle,
        "sha256": digest,
        "backend": options.backend,
        "precision": precision,
        "threads": options.threads,
        "max_batch": options.max_batch,
        "max_delay_ms": options.max_delay_ms,
        "timeout_seconds": options.timeout_seconds,
    }
    deployment = {
        "name": DEPLOYMENT,
        "autoscaling_config": {
            "min_replicas": options.min_replicas,
            "max_replicas": options.max_replicas,
            "target_ongoing_requests": options.max_batch,
        },
        # One batch runs while the next one forms. A replica that had more would keep them from others.
        "max_ongoing_requests": 2 * options.max_batch,
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "graceful_shutdown_wait_loop_s": 1,
        "graceful_shutdown_timeout_s": options.stop_seconds,
        "ray_actor_options": {"num_cpus": options.threads},
    }
    application = {
        "name": options.name,
        "route_prefix": "/",
        "import_path": IMPORT_PATH,
        "args": arguments,
        "deployments": [deployment],
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": options.host, "port": options.port, "request_timeout_s": options.timeout_seconds},
        "applications": [application],
    }


def yaml_text(content: Mapping[str, Any], indent: str = "") -> str:
    """A mapping in YAML. Its values are mappings, sequences of mappings, text, numbers and truth values."""
    lines = []
    for name, value in content.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{name}:\n{yaml_text(value, indent + '  ')}")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            items = [yaml_text(item, indent + "  ") for item in value]
            lines.append(f"{indent}{name}:\n" + "".join(f"{indent}- {item[len(indent) + 2 :]}" for item in items))
        else:
            lines.append(f"{indent}{name}: {json.dumps(value)}\n")
    return "".join(lines)
