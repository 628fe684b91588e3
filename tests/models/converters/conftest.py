"""Small networks, and a reader of official pickles that knows the protocol alone."""

from tests.models.importers.conftest import nets
