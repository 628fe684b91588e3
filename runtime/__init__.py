"""The runtime: bundles, backends and the `Generator`. Importing it never imports torch."""

from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator

__all__ = ["Bundle", "Generator"]
