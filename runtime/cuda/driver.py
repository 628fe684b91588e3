"""Calls of the CUDA driver through the package `cuda-bindings`, with one-line errors."""

from __future__ import annotations

import logging
from typing import Any

from stylert.core.errors import BackendError, OutOfMemory, missing_extra

LOG = logging.getLogger("stylert")


def load_driver() -> Any:
    """The module with the driver's functions. Raises BackendError if the package is not installed."""
    try:
        from cuda.bindings import driver
    except ImportError:
        raise missing_extra("cuda-bindings", "tensorrt-rtx") from None
    return driver


def call(function: Any, *arguments: Any) -> Any:
    """Call a function of the driver. Every function returns its status, then its results.

    Returns:
        None, the one result, or a tuple of the results.

    Raises:
        OutOfMemory: The driver has too little memory.
        BackendError: The call failed for another reason, or this machine has no driver.
    """
    try:
        status, *results = function(*arguments)
    except RuntimeError as e:  # the package finds no driver library
        raise BackendError(f"CUDA: {' '.join(str(e).split())}") from None
    if status.name == "CUDA_ERROR_OUT_OF_MEMORY":
        raise OutOfMemory(f"CUDA: {status.name} in {function.__name__}")
    if status.value != 0:
        raise BackendError(f"CUDA: {status.name} in {function.__name__}")
    if len(results) > 1:
        return tuple(results)
    return results[0] if results else None


def release(function: Any, *arguments: Any) -> None:
    """Call a function that frees something. A failure is only logged, so that all else is freed as well.

    After an error of the device, such as a wrong address in a kernel, every call of the driver fails.
    """
    try:
        call(function, *arguments)
    except BackendError as e:
        LOG.debug("not freed: %s", e)


def gpu_of(pointer: int) -> int | None:
    """The index of the GPU whose memory holds an address; None if the driver does not say."""
    try:
        driver = load_driver()
        call(driver.cuInit, 0)
        return int(call(driver.cuPointerGetAttribute, driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, pointer))
    except BackendError:
        return None


def wait_for_stream(stream: int) -> None:
    """Wait until the work of another library's stream on the first GPU is complete. Raises as `load_driver` and `call`."""
    driver = load_driver()
    call(driver.cuInit, 0)
    gpu = call(driver.cuDeviceGet, 0)
    call(driver.cuCtxSetCurrent, call(driver.cuDevicePrimaryCtxRetain, gpu))
    try:
        call(driver.cuStreamSynchronize, stream)
    finally:
        call(driver.cuDevicePrimaryCtxRelease, gpu)
