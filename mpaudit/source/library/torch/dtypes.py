"""What torch's operations make of the dtypes of their inputs, with and without autocast."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from msgspec import Struct
from msgspec.structs import replace

from mpaudit import autocast_lists
from mpaudit.finding import Span
from mpaudit.source.engine.dtypes import HALF, Dtype


class Kind(Enum):
    """How an operation, or a layer, decides the dtype of its result."""

    LOWER = "computes in the region's dtype"
    FLOAT32 = "computes in float32 in a region for CUDA"
    LOSS = "computes in float32 in every region"
    KEEP = "keeps the dtype of its input"
    PROMOTE = "takes the widest dtype of its inputs"


class Mode(Struct, frozen=True):
    """Whether autocast is on where an operation runs, and in which dtype; None is not known."""

    on: bool
    dtype: str | None = None
    device: str | None = None
    at: Span | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mode) and self._known() == other._known()

    def __hash__(self) -> int:
        return hash(self._known())

    def _known(self) -> tuple[object, ...]:
        return self.on, self.dtype, self.device


NUMBER = Dtype("number")
"""Stands for a Python number, which never decides a dtype."""


def _names(listed: str) -> frozenset[str]:
    """The operations of a list, without ATen's overloads and the `linalg_` in front."""
    return frozenset(
        each.partition(".")[0].removeprefix("linalg_").removeprefix("_") for each in listed.split()
    )


LOSSES = _names(
    """cross_entropy nll_loss binary_cross_entropy_with_logits mse_loss l1_loss smooth_l1_loss
    huber_loss kl_div cosine_embedding_loss margin_ranking_loss hinge_embedding_loss
    poisson_nll_loss soft_margin_loss multi_margin_loss multilabel_margin_loss
    triplet_margin_loss"""
)
_UNSURE = frozenset({"bilinear", "grid_sampler", "index_put", "convolution", "conv_tbc"})
_RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
_LOWER = _names(autocast_lists.LOWER) - _RECURRENT - _UNSURE
_FLOAT32 = _names(f"{autocast_lists.FLOAT32} {autocast_lists.FLOAT32_RESULT}") - LOSSES
_KEEP = _names(
    """relu relu6 gelu silu mish sigmoid tanh leaky_relu elu celu selu hardtanh hardswish
    hardsigmoid logsigmoid softsign threshold glu dropout dropout1d dropout2d dropout3d
    alpha_dropout feature_dropout batch_norm instance_norm max_pool1d max_pool2d max_pool3d
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d pad pixel_shuffle pixel_unshuffle
    unfold fold view reshape flatten unflatten transpose permute swapaxes swapdims movedim moveaxis
    t squeeze unsqueeze expand expand_as view_as repeat repeat_interleave tile contiguous clone
    detach chunk split tensor_split unbind narrow select index_select gather take
    take_along_dim masked_select flip roll rot90 tril triu diag diagonal diag_embed masked_fill
    index_fill masked_scatter index_copy mean var std abs absolute neg negative sqrt square sign
    floor ceil round trunc frac clamp clip clamp_min clamp_max sin cos erf amax amin nan_to_num
    zeros_like ones_like empty_like full_like rand_like randn_like requires_grad_ cuda cpu
    pin_memory data checkpoint broadcast_to as_strided"""
)
_PROMOTE = (
    _names(
        """add sub subtract mul multiply div divide true_divide fmod remainder maximum minimum fmax
        fmin hypot lerp where cat concat concatenate stack hstack vstack dstack outer
        hadamard"""
    )
    | _names(autocast_lists.PROMOTE) - _UNSURE
)
_FIXED = {"normalize": Kind.FLOAT32, "softmin": Kind.FLOAT32, "pairwise_distance": Kind.FLOAT32}
_UPSAMPLING = ("upsample", "interpolate")
LOWER_METHODS = _names("matmul mm bmm mv addmm addmv addr addbmm baddbmm")
"""Methods that only a tensor has: in a region, their result is known whatever they are called on."""

_LAYERS = {
    Kind.LOWER: """Linear LazyLinear Conv1d Conv2d Conv3d LazyConv1d LazyConv2d LazyConv3d
    ConvTranspose1d ConvTranspose2d ConvTranspose3d PReLU NonDynamicallyQuantizableLinear""",
    Kind.FLOAT32: """LayerNorm GroupNorm RMSNorm Softmax Softmax2d LogSoftmax Softmin Softplus
    CosineSimilarity PairwiseDistance""",
    Kind.LOSS: """CrossEntropyLoss NLLLoss BCEWithLogitsLoss MSELoss L1Loss SmoothL1Loss HuberLoss
    KLDivLoss CosineEmbeddingLoss MarginRankingLoss HingeEmbeddingLoss PoissonNLLLoss
    SoftMarginLoss MultiMarginLoss MultiLabelMarginLoss TripletMarginLoss""",
    Kind.KEEP: """Identity ReLU ReLU6 LeakyReLU GELU SiLU Mish ELU CELU SELU Tanh Sigmoid Hardtanh
    Hardswish Hardsigmoid LogSigmoid Softsign Threshold GLU Dropout Dropout1d Dropout2d Dropout3d
    AlphaDropout FeatureAlphaDropout BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm
    InstanceNorm1d InstanceNorm2d InstanceNorm3d MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d
    AvgPool3d AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d
    AdaptiveMaxPool2d AdaptiveMaxPool3d Flatten Unflatten PixelShuffle PixelUnshuffle ZeroPad1d
    ZeroPad2d ZeroPad3d ReflectionPad1d ReflectionPad2d ReflectionPad3d ReplicationPad1d
    ReplicationPad2d ReplicationPad3d ConstantPad1d ConstantPad2d ConstantPad3d CircularPad1d
    CircularPad2d CircularPad3d Fold Unfold ChannelShuffle""",
}
_KIND_OF_LAYER = {name: kind for kind, names in _LAYERS.items() for name in names.split()}
_WIDTH = {"bool": 0, "uint8": 1, "int8": 1, "int16": 2, "int32": 3, "int64": 4}


def kind_of_layer(name: str) -> Kind | None:
    """How a layer of `torch.nn` decides, None if it is not known or depends on torch's version."""
    return _KIND_OF_LAYER.get(name)


def kind_of_operation(name: str) -> Kind | None:
    """How a function of torch or a method of a tensor decides; in-place methods keep."""
    if name.endswith("_") and not name.endswith("__"):
        return Kind.KEEP
    if name in LOSSES:
        return Kind.LOSS
    if name in _LOWER:
        return Kind.LOWER
    if name in _FLOAT32 and not name.startswith(_UPSAMPLING):
        return Kind.FLOAT32
    if name in _KEEP:
        return Kind.KEEP
    return Kind.PROMOTE if name in _PROMOTE else _FIXED.get(name)


def result(
    kind: Kind,
    mode: Mode | None,
    inputs: Sequence[Dtype | None],
    at: Span | None = None,
    *,
    lone: bool = False,
) -> Dtype | None:
    """The dtype of what an operation or layer at a place returns.

    Without a `mode` nobody knows whether a caller has entered a region: what is the same with one and
    without is known. `lone` says that the result has no dimensions.
    """
    if kind in (Kind.KEEP, Kind.PROMOTE):
        found = widest(inputs) if kind is Kind.PROMOTE else inputs[0] if inputs else None
        return replace(found, lone=True) if lone and found not in (None, NUMBER) else found
    if mode is None:
        off = result(kind, Mode(on=False), inputs, at, lone=lone)
        on = result(kind, Mode(True, "float16", "cuda"), inputs, at, lone=lone)
        return off if off == on else None
    if not mode.on:
        found = widest(inputs) if kind is Kind.LOSS else _alone(inputs)
        return None if found in (None, NUMBER) else replace(found, lone=lone)
    if kind is Kind.LOWER:
        return None if mode.dtype is None else Dtype(mode.dtype, at, "computed", mode.at, lone)
    first = inputs[0] if inputs else None
    if kind is Kind.FLOAT32 and mode.device != "cuda":
        same = first is not None and first.name == "float32"
        return replace(first, lone=lone) if first and (mode.device == "cpu" or same) else None
    if any(each is not None and each.name == "float64" for each in inputs):
        return None
    return Dtype("float32", at, "computed", mode.at, lone)


def _alone(inputs: Sequence[Dtype | None]) -> Dtype | None:
    """The dtype of inputs that must all be of one, or the operation raises."""
    return next((each for each in inputs if each is not None and each is not NUMBER), None)


def widest(inputs: Sequence[Dtype | None]) -> Dtype | None:
    """What arithmetic on these inputs gives; None where one of them may be wider than it looks."""
    if None in inputs:
        return None
    known = [each for each in inputs if each is not None and each is not NUMBER]
    deciding = [each for each in known if not each.lone] or known
    if not deciding:
        return NUMBER if inputs else None
    names = {each.name for each in deciding}
    if len(names) == 1:
        return deciding[0]
    for name in ("float64", "float32"):
        if name in names:
            return next(each for each in deciding if each.name == name)
    if names >= set(HALF):
        return Dtype("float32", deciding[0].at)
    for name in HALF:
        if name in names:
            return next(each for each in deciding if each.name == name)
    return max(deciding, key=lambda each: _WIDTH.get(each.name, 0))
