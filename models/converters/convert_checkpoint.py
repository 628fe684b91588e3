"""Writes a checkpoint for the code of another project: stylegan2-ada-pytorch, stylegan3, or rosinality's."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from stylert.core.errors import InputError, as_path, shown
from stylert.core.files.atomic import atomic_file
from stylert.models.converters.networks import NetworksToWrite, checked_networks
from stylert.models.converters.official import NETWORK_MODULES, write_official
from stylert.models.converters.rosinality import write_rosinality

#: The projects, and the kind of their files, as `check_output` knows it.
PROJECTS = {**dict.fromkeys(NETWORK_MODULES, "official pickle"), "rosinality": "torch file"}


def check_project(project: str) -> None:
    """Raise InputError if `project` is not a name from `PROJECTS`."""
    if not isinstance(project, str) or project not in PROJECTS:
        raise InputError(f"project {shown(project)} is not one of {', '.join(PROJECTS)}")


def write_for_project(path: str | Path, networks: NetworksToWrite, project: str) -> list[str]:
    """Write a checkpoint that the code of `project` loads. An existing file stays until the new one is complete.

    Args:
        path: File to write.
        networks: The networks.
        project: A name from `PROJECTS`.

    Returns:
        Sentences for the user: the parts that the other code has not, or has otherwise.

    Raises:
        InputError: The project is not known, or its code cannot represent the networks. The message names the setting.
        CheckpointError: A tensor is missing, has another shape than its configuration says, or is not finite.
        OutputError: The file cannot be written.
    """
    check_project(project)
    path = as_path(path, "checkpoint")
    networks = checked_networks(networks, f"checkpoint {path} is not written")
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        return _write(file, networks, project)


def _write(file: BinaryIO, networks: NetworksToWrite, project: str) -> list[str]:
    return write_rosinality(file, networks) if project == "rosinality" else write_official(file, networks, project)
