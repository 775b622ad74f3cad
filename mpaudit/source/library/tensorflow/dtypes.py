"""What TensorFlow's and Keras' functions make of the dtypes of their inputs.

TensorFlow converts Python numbers and arrays of numpy to the dtype of the tensor they meet, and
raises where two tensors differ. `keras.ops` promotes them, as numpy does.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from mpaudit.source.api.keras_names import ROOTS, last

HALF = ("float16", "bfloat16")
FLOATS = ("float16", "bfloat16", "float32", "float64")


class Kind(Enum):
    """How a function decides the dtype of its result."""

    KEEP = "that of its first argument"
    JOIN = "the one that all of its tensors must have"
    PROMOTE = "the widest of its tensors"
    CAST = "what it is told"
    MAKE = "what it is told, else float32"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_KEEP = _words(
    """abs acos acosh asin asinh atan atanh bias_add batch_normalization boolean_mask broadcast_to ceil
    clip_by_norm clip_by_value clip conv1d conv2d conv3d cos cosh cumsum cumprod depth_to_space
    depthwise_conv2d diag diag_part dropout elu ensure_shape erf exp expand_dims expm1 floor flatten
    gather gather_nd gelu global_norm hard_sigmoid hard_tanh identity image_resize l2_loss
    l2_normalize layer_norm leaky_relu log log1p log_sigmoid log_softmax logsumexp max_pool max
    max_pool1d max_pool2d max_pool3d avg_pool avg_pool1d avg_pool2d average_pool max_pool mean min
    moments negative norm normalize ones_like one_minus pad permute_dimensions prod reciprocal
    reduce_euclidean_norm reduce_logsumexp reduce_max reduce_mean reduce_min reduce_prod reduce_std
    reduce_sum reduce_variance relu relu6 repeat reshape reverse roll round rsqrt selu sigmoid sign
    silu sin sinh slice softmax softplus softsign space_to_depth sparse_dense_matmul split sqrt square
    squeeze stop_gradient std strided_slice sum swapaxes swish tan tanh tensor_scatter_nd_update tile
    trace transpose tril triu unstack unsorted_segment_sum var variance zeros_like cast_like
    convert_to_tensor map_fn log_poisson hardtanh mish"""
)
_JOIN = _words(
    """add add_n batch_dot concat concatenate divide divide_no_nan dot einsum floordiv matmul maximum
    minimum mod multiply multiply_no_nan outer pow realdiv scatter_add squared_difference stack
    subtract tensordot truediv where xdivy xlogy cross vdot"""
)
_MAKE = _words(
    """zeros ones eye fill random_normal random_uniform truncated_normal normal uniform
    random_normal_variable identity_matrix glorot_uniform hann_window linspace random_bernoulli
    random_binomial one_hot sequence_mask"""
)
_CAST = _words("cast saturate_cast")
RESIZES = frozenset(
    f"tensorflow.{place}image.{name}"
    for place in ("", "compat.v1.", "compat.v2.")
    for name in ("resize", "resize_images", "resize_with_pad")
)
"""What gives float32 whatever it is given, unless it takes the nearest pixel."""
NO_TENSORS = _words("axis keepdims name dtype transpose_a transpose_b perm shape mask seed")
"""Keyword arguments that hold no tensor whose dtype decides."""
_MODULES = (
    "tensorflow.",
    "tensorflow.math.",
    "tensorflow.nn.",
    "tensorflow.linalg.",
    "tensorflow.random.",
    "tensorflow.signal.",
    "tensorflow.dtypes.",
    "tensorflow.compat.v1.",
    "tensorflow.compat.v1.math.",
    "tensorflow.compat.v1.nn.",
    "tensorflow.compat.v2.",
)
_KERAS = tuple(
    f"{root}.{part}."
    for root in ROOTS
    for part in ("ops", "backend", "activations", "ops.nn", "ops.numpy", "random", "ops.linalg")
)


def kind_of(name: str) -> Kind | None:
    """How the function of that full dotted name decides, None if that is not known."""
    word = last(name)
    if not name.removesuffix(word).startswith(_KERAS) and name.removesuffix(word) not in _MODULES:
        return None
    if word in _CAST:
        return Kind.CAST
    if word in _JOIN:
        return Kind.PROMOTE if promotes(name) else Kind.JOIN
    if word in _MAKE:
        return Kind.MAKE
    return Kind.KEEP if word in _KEEP else None


def promotes(name: str) -> bool:
    """Whether a function finds a common dtype for its tensors, where TensorFlow's own would raise."""
    return ".ops." in name


def widest(names: Sequence[str]) -> str | None:
    """What `keras.ops` makes of these dtypes."""
    if len(set(names)) <= 1:
        return names[0] if names else None
    for name in ("float64", "float32"):
        if name in names:
            return name
    return "float32" if set(names) >= set(HALF) else None
