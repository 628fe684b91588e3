"""The operators as ONNX functions of domain `stylert`, version 1: their nodes and their bodies. No torch.

A function body lets a node of an unknown domain run anywhere. ONNX Runtime and TensorRT-RTX inline it, and TensorRT
replaces the node by its plugin. Every attribute is a number, because a body can only compute with attributes and pass
them on. A body cannot refuse a wrong attribute, but `check_nodes` does. Constants are combined in float32 and cast
last, because runtimes fold float16 arithmetic less readily.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import onnx
import onnx.parser

from stylert.plugins.filtered_lrelu_node import FILTERED_LRELU_BODY, FilteredLreluNode
from stylert.plugins.onnx_body_parts import clamping, filter_padding
from stylert.plugins.onnx_nodes import NODES, ModulatedConv2dNode, Sizes, Upfirdn2dNode

DOMAIN = "stylert"
DOMAIN_VERSION = 1
OPSET = 20

#: Upfirdn2d(x, f) -> y.
#:
#: - x `[N, C, H, W]`, f `[fh, fw]`, y `[N, C, H', W']`.
#: - `up`, `down`: `[y, x]`. `padding`: `[top, bottom, left, right]`, negative crops. `flip`: 0 convolves, 1 correlates.
#:   `gain`: any finite number.
#: - `group` must be C. A function cannot compute the attribute `group` of its depthwise convolution.
UPFIRDN2D = f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
Upfirdn2d <up, down, padding, flip, gain, group> (x, f) => (y)
{{
    up_yx = Constant <value_ints: ints = @up> ()
    down_yx = Constant <value_ints: ints = @down> ()
    pad = Constant <value_ints: ints = @padding> ()
    flip_i = Constant <value_int: int = @flip> ()
    gain_f = Constant <value_float: float = @gain> ()
    groups = Constant <value_int: int = @group> ()
    first = Constant <value_ints: ints = [0, 2]> ()
    second = Constant <value_ints: ints = [1, 3]> ()
    axes_f = Constant <value_ints: ints = [0, 1]> ()
    axes_x = Constant <value_ints: ints = [2, 3]> ()
    one = Constant <value_ints: ints = [1]> ()
    ones = Constant <value_ints: ints = [1, 1]> ()
    zeros = Constant <value_ints: ints = [0, 0]> ()
    far = Constant <value_ints: ints = [1073741824, 1073741824]> ()
    shape1 = Constant <value_ints: ints = [1]> ()

    flips = Mul (ones, flip_i)
    unflipped = Sub (ones, flips)
    step = Sub (unflipped, flips)
    start = Neg (flips)
    end = Mul (far, step)
    oriented = Slice (f, start, end, axes_f, step)
    taps = Cast <to = 1> (oriented)
    scaled = Mul (taps, gain_f)
    plane = Unsqueeze (scaled, axes_f)
    count = Reshape (groups, shape1)
    repeats = Concat <axis = 0> (count, one, ones)
    tiled = Tile (plane, repeats)
    kernel = CastLike (tiled, x)

    full = ConvTranspose <strides: ints = @up, group: int = @group> (x, kernel)
    {filter_padding("f")}
    y = Slice (padded, crop_before, stop, axes_x, down_yx)
}}
"""

#: ModulatedConv2d(x, weight, style, demod, noise, bias, f) -> y.
#:
#: - x `[N or 1, I, H, W]`, weight `[O, I, k, k]` with k odd, style `[N, I]`, demod `[N, O]`, noise
#:   `[1 or N, 1, H' or 1, W' or 1]`, bias `[O]`, f `[4, 4]`, y `[N, O, H', W']`.
#: - `up`: 1, or 2 with k = 3. H' is `up * H`, and W' is `up * W`. `alpha`: slope of the leaky ReLU, 1 is linear.
#:   `gain`: above 0. `clamp`: bound of |y|, 0 is no bound.
#: - `group` must be O, as above.
MODULATED_CONV2D = f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
ModulatedConv2d <up, alpha, gain, clamp, group> (x, weight, style, demod, noise, bias, f) => (y)
{{
    up_i = Constant <value_int: int = @up> ()
    gain_f = Constant <value_float: float = @gain> ()
    clamp_f = Constant <value_float: float = @clamp> ()
    groups = Constant <value_int: int = @group> ()
    two = Constant <value_int: int = 2> ()
    zero_f = Constant <value_float: float = 0.0> ()
    hw = Constant <value_ints: ints = [2, 3]> ()
    yx = Constant <value_ints: ints = [1, 2]> ()

    scale = Unsqueeze (style, hw)
    modulated = Mul (x, scale)
    is_up = Equal (up_i, two)
    convolved = If (is_up) <
        then_branch = upsampling () => (up_y) {{
            swapped = Transpose <perm = [1, 0, 2, 3]> (weight)
            full = ConvTranspose <strides = [2, 2]> (modulated, swapped)
            four = Constant <value_float: float = 4.0> ()
            f_f = Cast <to = 1> (f)
            f_gain = Mul (f_f, four)
            neg = Constant <value_ints: ints = [-1, -1]> ()
            low = Constant <value_ints: ints = [-1073741824, -1073741824]> ()
            f_axes = Constant <value_ints: ints = [0, 1]> ()
            f_flipped = Slice (f_gain, neg, low, f_axes, neg)
            f_plane = Unsqueeze (f_flipped, f_axes)
            one1 = Constant <value_ints: ints = [1]> ()
            ones3 = Constant <value_ints: ints = [1, 1, 1]> ()
            count = Reshape (groups, one1)
            repeats = Concat <axis = 0> (count, ones3)
            tiled = Tile (f_plane, repeats)
            kernel = CastLike (tiled, x)
            up_y = Conv <pads = [1, 1, 1, 1], group: int = @group> (full, kernel)
        }},
        else_branch = plain () => (plain_y) {{
            plain_y = Conv <auto_pad = "SAME_UPPER"> (modulated, weight)
        }}
    >
    gain_t = CastLike (gain_f, x)
    demod_gain = Mul (demod, gain_t)
    d = Unsqueeze (demod_gain, hw)
    demodulated = Mul (convolved, d)
    noise_f = Cast <to = 1> (noise)
    noise_gain_f = Mul (noise_f, gain_f)
    noise_gain = CastLike (noise_gain_f, x)
    noisy = Add (demodulated, noise_gain)
    bias_f = Cast <to = 1> (bias)
    bias_gain_f = Mul (bias_f, gain_f)
    bias_gain = CastLike (bias_gain_f, x)
    b = Unsqueeze (bias_gain, yx)
    biased = Add (noisy, b)
    activated = LeakyRelu <alpha: float = @alpha> (biased)
    {clamping("activated", "y")}
}}
"""


#: FilteredLrelu(x, bias, fu, fd) -> y; see `filtered_lrelu_node.py`.
FILTERED_LRELU = f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>{FILTERED_LRELU_BODY}"""

#: Name of each operator to the class that reads its nodes.
OPERATORS: Mapping[str, type[Upfirdn2dNode] | type[ModulatedConv2dNode] | type[FilteredLreluNode]] = {
    **NODES,
    "FilteredLrelu": FilteredLreluNode,
}


def function_protos() -> list[onnx.FunctionProto]:
    """The bodies of all operators, for a model that uses them."""
    return [onnx.parser.parse_function(body) for body in (UPFIRDN2D, MODULATED_CONV2D, FILTERED_LRELU)]


def opset_imports() -> list[onnx.OperatorSetIdProto]:
    """The operator sets that a model with these functions imports."""
    return [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]


def check_nodes(model: onnx.ModelProto) -> None:
    """Refuse a model with a node of our domain that the operators do not define.

    It reads attributes, and the shapes that the model states: of inputs, initializers and `value_info`.

    Raises:
        ValueError: An unknown operator, another version of the domain, or a node that `onnx_nodes` refuses. The message
            is one line and names the node.
    """
    versions = [opset.version for opset in model.opset_import if opset.domain == DOMAIN]
    if versions not in ([], [DOMAIN_VERSION]):
        raise ValueError(f"domain {DOMAIN} must have version {DOMAIN_VERSION}, not {', '.join(map(str, versions))}")
    shapes = dict(_stated_shapes(model.graph))
    for node in model.graph.node:
        if node.domain == DOMAIN:
            try:
                _check_node(node, shapes)
            except ValueError as error:
                raise ValueError(f"node {node.name or node.output[0]!r}: {error}") from None


def node_attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The values of a node's attributes by name.

    Raises:
        ValueError: An attribute has no value, or occurs twice.
    """
    values: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.name in values or attribute.ref_attr_name or attribute.type == onnx.AttributeProto.UNDEFINED:
            raise ValueError(f"{node.op_type}: attribute {attribute.name} occurs twice or has no value")
        values[attribute.name] = onnx.helper.get_attribute_value(attribute)
    return values


def _check_node(node: onnx.NodeProto, shapes: Mapping[str, Sizes]) -> None:
    """Refuse a node of our domain. `shapes` holds the shapes that the model states, by tensor."""
    if node.op_type not in OPERATORS:
        raise ValueError(f"domain {DOMAIN} has no operator {node.op_type}")
    operator = OPERATORS[node.op_type]
    if len(node.input) != len(operator.ranks) or not all(node.input):
        raise ValueError(f"{node.op_type} has the inputs {', '.join(operator.ranks)}, and none may be left out")
    unknown = {name: [None] * rank for name, rank in operator.ranks.items()}
    stated = {name: shapes[tensor] for name, tensor in zip(operator.ranks, node.input, strict=True) if tensor in shapes}
    operator.of(node_attributes(node)).check_shapes(unknown | stated)


def _stated_shapes(graph: onnx.GraphProto) -> Iterator[tuple[str, Sizes]]:
    """Name and shape of every tensor whose shape the graph states. A dynamic size is None."""
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            yield value.name, [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
    for tensor in graph.initializer:
        yield tensor.name, list(tensor.dims)
