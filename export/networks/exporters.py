"""Finds the exporter of a network by its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stylert.export.networks.exporter import NetworkExporter
from stylert.export.networks.stylegan1 import Stylegan1Exporter
from stylert.export.networks.stylegan2 import Stylegan2Exporter
from stylert.export.networks.stylegan3 import Stylegan3Exporter
from stylert.models.network_config import BaseGeneratorConfig
from stylert.models.stylegan1.config import GeneratorConfig as Stylegan1Config
from stylert.models.stylegan2.config import GeneratorConfig as Stylegan2Config
from stylert.models.stylegan3.config import GeneratorConfig as Stylegan3Config

#: By the name of the network in files.
EXPORTERS: Mapping[str, type[NetworkExporter[Any]]] = {
    Stylegan1Config.network: Stylegan1Exporter,
    Stylegan2Config.network: Stylegan2Exporter,
    Stylegan3Config.network: Stylegan3Exporter,
}


def exporter_of(config: BaseGeneratorConfig) -> type[NetworkExporter[Any]]:
    """The exporter of the networks with this kind of configuration."""
    return EXPORTERS[config.network]
