"""The networks of TensorFlow's pickles as named variables and keyword arguments, for the readers of StyleGAN1 and StyleGAN2."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from stylert.models.importers.errors import FormatError, UnsupportedNetworkError, printable
from stylert.models.importers.pickle_reader import MAX_KEY
from stylert.models.importers.records import NumpyArray, Storage, StoredObject, StoredTensor

MAX_PARTS = 8
#: A 4096 px generator has about 150.
MAX_VARIABLES = 2000


def is_tensorflow(data: object) -> bool:
    """Whether this is a tuple of TensorFlow networks."""
    if not isinstance(data, tuple) or not data:
        return False
    return all(isinstance(network, StoredObject) and network.kind == "Network" for network in data)


def network_variables(network_object: StoredObject, network: str) -> dict[str, StoredTensor]:
    """The variables of a network and of its parts by name, such as `mapping/Dense0/weight`."""
    parts = network_object.state.get("components")
    parts = parts if type(parts) is dict else {}
    if len(parts) > MAX_PARTS or not all(isinstance(k, str) and isinstance(v, StoredObject) for k, v in parts.items()):
        raise FormatError(f"its {network} has parts that are not networks")
    tensors: dict[str, StoredTensor] = {}
    for prefix, part in [("", network_object), *((f"{name}/", part) for name, part in parts.items())]:
        variables = part.state.get("variables")
        if type(variables) is not list or len(variables) > MAX_VARIABLES:
            raise FormatError(f"its {network} has no list of at most {MAX_VARIABLES} variables")
        for variable in variables:
            match variable:
                case (str(name), NumpyArray(tensor=StoredTensor() as tensor)):
                    pass
                case (str(name), int() | float() as number):
                    data = memoryview(np.float64(number).tobytes())
                    tensor = StoredTensor(Storage("DoubleStorage", 1, data), offset=0, shape=(), strides=())
                case _:
                    raise FormatError(f"its {network} has a variable in an unknown form")
            if len(name) > MAX_KEY:
                raise FormatError(f"its {network} has a variable with a name of {len(name)} characters")
            tensors[re.sub(r"^G_(mapping|synthesis)/", r"\1/", prefix + name)] = tensor
    return tensors


class Arguments:
    """The keyword arguments of a network. Each is popped once; `check_empty` refuses those that remain.

    Args:
        network_object: The network.
        network: Its name in the file, for messages.
        ignored: Names of arguments that do not change the network.
        allowed: Arguments that may remain, and their values.
    """

    def __init__(
        self,
        network_object: StoredObject,
        network: str,
        ignored: Collection[str],
        allowed: Mapping[str, tuple[object, ...]],
    ) -> None:
        arguments = network_object.state.get("static_kwargs")
        if type(arguments) is not dict or not all(isinstance(name, str) for name in arguments):
            raise FormatError(f"its {network} has no arguments")
        self.network, self.allowed = network, allowed
        self.values: dict[str, Any] = {k: v for k, v in arguments.items() if k not in ignored}

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def is_set(self, name: str) -> bool:
        """Whether the argument has a value other than None or zero."""
        return bool(self.values.get(name))

    def pop(self, name: str, default: Any) -> Any:
        """The argument, or `default`, the default of the TensorFlow code. Raises FormatError unless it is a plain value."""
        value = self.values.pop(name, default)
        if value is not None and not isinstance(value, str | int | float | bool):
            raise FormatError(f"its {self.network} has {name} = {printable(value)}")
        return value

    def pop_list(self, name: str) -> list[Any] | tuple[Any, ...]:
        """The list of this name, empty where there is none. Raises FormatError for another value."""
        value = self.values.pop(name, None) or ()
        if not isinstance(value, list | tuple):
            raise FormatError(f"its {self.network} has {name} = {printable(value)}")
        return value

    def pop_resolution(self) -> Any:
        """The resolution. Raises UnsupportedNetworkError where the image is not square."""
        resolution = self.pop("resolution", 1024)
        for name in ("resolution_w", "resolution_h"):  # of variants for other shapes of image
            if (length := self.pop(name, resolution)) not in (None, resolution):
                raise UnsupportedNetworkError(
                    f"its {self.network} is not square: {name} is {printable(length)}, resolution is {printable(resolution)}"
                )
        return resolution

    def check_empty(self) -> None:
        """Raise UnsupportedNetworkError for an argument that remains, unless it has an allowed value."""
        for name, value in self.values.items():
            allowed = self.allowed.get(name, ())
            if not any(type(value) is type(fixed) and value == fixed for fixed in allowed):
                raise UnsupportedNetworkError(
                    f"its {self.network} has {printable(name)} = {printable(value)}, which stylert's networks do not have"
                )
