"""Parts that the ONNX bodies of several operators share, as text of ONNX's parser. No torch.

The names in a body are its own, so each part names the tensors that it expects. All expect the constants `zeros`, `ones`,
`first` `[0, 2]`, `second` `[1, 3]`, `axes_x` `[2, 3]` and `far`.
"""

from __future__ import annotations


def filter_padding(f: str) -> str:
    """The padding behind a transposed convolution that inserted zeros and filtered.

    The transposed convolution pads by the taps less one on both sides already. So `padding` grows or crops the rest.

    Args:
        f: Name of the filter `[fh, fw]`.

    Returns:
        Nodes that read `full` `[N, C, H, W]`, the attribute values `pad` and `up_yx`, and `x` for the type. They write
        `padded`, and the bounds `crop_before` and `stop` for the slice that crops it.
    """
    return f"""size = Shape ({f})
    pad_first = Gather (pad, first)
    pad_second = Gather (pad, second)
    reach = Sub (size, ones)
    before = Sub (pad_first, reach)
    cut = Sub (pad_second, size)
    after = Add (cut, up_yx)
    grow_before = Max (before, zeros)
    grow_after = Max (after, zeros)
    pads = Concat <axis = 0> (grow_before, grow_after)
    value = Constant <value_float: float = 0.0> ()
    value_t = CastLike (value, x)
    padded = Pad (full, pads, value_t, axes_x)
    crop_before = Sub (grow_before, before)
    crop_after = Sub (after, grow_after)
    uncropped = Equal (crop_after, zeros)
    stop = Where (uncropped, far, crop_after)"""


def clamping(activated: str, bounded: str) -> str:
    """The bound of an activation.

    Args:
        activated: Name of the tensor to bound.
        bounded: Name of the result.

    Returns:
        Nodes that read the scalars `clamp_f`, where 0 is no bound, and `zero_f`, and `x` for the type.
    """
    return f"""has_clamp = Greater (clamp_f, zero_f)
    {bounded} = If (has_clamp) <
        then_branch = clamping () => (clamped) {{
            high = CastLike (clamp_f, x)
            low_f = Neg (clamp_f)
            low_t = CastLike (low_f, x)
            clamped = Clip ({activated}, low_t, high)
        }},
        else_branch = passing () => (same) {{
            same = Identity ({activated})
        }}
    >"""
