"""The networks of a bundle in the form that ONNX Runtime Web runs fastest."""

from __future__ import annotations

from stylert.core.errors import BackendError, InputError, shown
from stylert.runtime.bundle import MAPPING_FILE, Bundle

#: Precisions that run in a browser. ONNX Runtime Web has no convolution in float16 on a processor.
PRECISIONS = ("fp32", "int8")


def mapping_network(bundle: Bundle) -> bytes:
    """The mapping network as an ONNX file.

    Raises:
        BundleError: The file is damaged.
    """
    return bundle.checked_file(MAPPING_FILE).read_bytes()


def synthesis_network(bundle: Bundle, precision: str) -> bytes:
    """The synthesis network as an ONNX file.

    Raises:
        InputError: The bundle lacks the precision, or a browser does.
        BackendError: The page cannot run the network.
        BundleError: The file is damaged.
    """
    entry = bundle.precision(precision)
    if precision not in PRECISIONS:
        raise InputError(f"a browser runs {' and '.join(PRECISIONS)}, not {shown(precision)}")
    if bundle.noise == "input":
        raise BackendError(f"bundle {bundle.path} takes noise as inputs; export one with --noise const")
    if bundle.output != "uint8":
        raise BackendError(f"bundle {bundle.path} has float images; export one with --output uint8")
    return bundle.checked_file(entry.file).read_bytes()
