"""The networks of a bundle in the form that ONNX Runtime Web runs fastest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stylert.core.errors import BackendError, BundleError, InputError, shown, shown_line
from stylert.runtime.bundle import Bundle
from stylert.runtime.bundle_manifest import MAPPING_FILE
from stylert.runtime.network_files import checked_model

if TYPE_CHECKING:
    from stylert.plugins.winograd_rewrite import ConvNode

#: Precisions that run in a browser. ONNX Runtime Web has no convolution in float16 on a processor.
PRECISIONS = ("fp32", "int8")
#: Layers of fp32 that are computed by Winograd's F(4x4, 3x3): those without upsampling, from so many pixels and channels on.
WINOGRAD_SIDE, WINOGRAD_CHANNELS = 8, 32


def mapping_network(bundle: Bundle) -> bytes:
    """The mapping network as an ONNX file.

    Raises:
        BundleError: The file is damaged.
    """
    return bundle.checked_file(MAPPING_FILE).read_bytes()


def synthesis_network(bundle: Bundle, precision: str) -> bytes:
    """The synthesis network as an ONNX file.

    Raises:
        InputError: The bundle lacks the precision, or a browser does. Or the network takes noise as inputs.
        BackendError: The page cannot run the network.
        BundleError: The file is damaged.
    """
    entry = bundle.precision(precision)
    if precision not in PRECISIONS:
        raise InputError(f"a browser runs {' and '.join(PRECISIONS)}, not {shown(precision)}")
    bundle.check_no_noise_inputs()
    if bundle.style_channels:
        raise BackendError(f"bundle {bundle.path} takes style offsets as an input; export one without --style-offsets")
    if bundle.output != "uint8":
        raise BackendError(f"bundle {bundle.path} has float images; export one with --output uint8")
    file = bundle.checked_file(entry.file)
    if precision != "fp32":
        return file.read_bytes()
    from stylert.plugins.winograd_rewrite import rewrite_as_winograd

    model = checked_model(file)
    try:
        rewrite_as_winograd(model, _winograd_tile)
        content: bytes = model.SerializeToString()
        return content
    except MemoryError as e:
        raise BackendError(f"not enough memory to write {file} for a browser") from e
    except Exception as e:  # a network that is not valid fails in many ways
        raise BundleError(f"{file}: {shown_line(str(e)) or type(e).__name__}") from None


def _winograd_tile(conv: ConvNode) -> int | None:
    """The tile size for a layer, or None for a direct convolution."""
    fits = conv.up == 1 and min(conv.size) >= WINOGRAD_SIDE and conv.out_channels >= WINOGRAD_CHANNELS
    return 4 if fits else None
