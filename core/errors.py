"""The errors that a user can cause. Each says what was wrong and what to do; the command line prints that one line."""

from __future__ import annotations


class StylertError(Exception):
    """A mistake in what the user gave: a file, a shape, an option, a missing package. The message is one line."""


class InputError(StylertError):
    """An argument has the wrong form, type, shape or range."""


class CheckpointError(StylertError):
    """A checkpoint is missing, damaged, or does not hold what its configuration says."""


class BundleError(StylertError):
    """A bundle or a file in it is missing, damaged, tampered with, or of an unknown version."""


class BackendError(StylertError):
    """A backend cannot run what was asked: not installed, wrong device, unsupported precision, stale engine."""


class OutOfMemory(BackendError):
    """There is too little memory for this batch, in the host or on the device."""


class OutputError(StylertError):
    """A result cannot be written where it was asked for."""


class DataError(StylertError):
    """A dataset is missing, damaged, or does not fit the network."""


def missing_extra(package: str, extra: str) -> BackendError:
    """The error for an optional package that is not installed, with the command that installs it."""
    return BackendError(f"this needs {package}: pip install 'stylert[{extra}]'")
