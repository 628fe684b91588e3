"""The CUDA driver through `cuda-bindings`, with its failures as errors of one line."""

from __future__ import annotations

from typing import Any

from stylert.core.errors import BackendError, OutOfMemory, missing_extra


def load_driver() -> Any:
    """The driver's functions. Raises BackendError where the package is not installed."""
    try:
        from cuda.bindings import driver
    except ImportError:
        raise missing_extra("cuda-bindings", "tensorrt-rtx") from None
    return driver


def call(function: Any, *arguments: Any) -> Any:
    """Call a driver function, which returns its status first; its other values, one alone or several as a tuple.

    Raises OutOfMemory, or BackendError with the driver's word for another failure.
    """
    try:
        status, *values = function(*arguments)
    except RuntimeError as e:  # the package finds no driver library
        raise BackendError(f"CUDA: {' '.join(str(e).split())}") from None
    if status.name == "CUDA_ERROR_OUT_OF_MEMORY":
        raise OutOfMemory(f"CUDA: {status.name} in {function.__name__}")
    if status.value != 0:
        raise BackendError(f"CUDA: {status.name} in {function.__name__}")
    if len(values) > 1:
        return tuple(values)
    return values[0] if values else None


def wait_for_stream(stream: int) -> None:
    """Wait until the work of a stream of another library on the first GPU is over. Raises as `load_driver` and `call`."""
    driver = load_driver()
    call(driver.cuInit, 0)
    gpu = call(driver.cuDeviceGet, 0)
    call(driver.cuCtxSetCurrent, call(driver.cuDevicePrimaryCtxRetain, gpu))
    try:
        call(driver.cuStreamSynchronize, stream)
    finally:
        call(driver.cuDevicePrimaryCtxRelease, gpu)
