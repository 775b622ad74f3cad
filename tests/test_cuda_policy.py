"""The emulated cast policy against torch's own for CUDA: its header, what it registers, what it does.

A torch without CUDA still has AutocastCUDA's kernels, and runs them on tensors that say they are on a
GPU and hold no numbers: what each operation gives out there is what it must give out here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from watched import traced  # noqa: E402

from mpaudit import autocast_lists as lists  # noqa: E402

HEADER = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
LISTED = {
    "AT_FORALL_LOWER_PRECISION_FP": lists.LOWER,
    "AT_FORALL_FP32": lists.FLOAT32,
    "AT_FORALL_FP32_SET_OPT_DTYPE": lists.FLOAT32_RESULT,
    "AT_FORALL_PROMOTE": lists.PROMOTE,
}
OF_CUDA_ALONE = {  # parts of operations that the CPU computes otherwise
    "_scaled_dot_product_flash_attention",
    "_thnn_fused_gru_cell",
    "_thnn_fused_lstm_cell",
    "cudnn_convolution",
    "cudnn_convolution_transpose",
}
WHOLE = {  # on a GPU a part of them is listed: their convolution, or cudnn's
    *(f"conv{n}d.padding" for n in (1, 2, 3)),
    *(
        f"{kind}.{how}"
        for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu")
        for how in ("input", "data")
    ),
}
APPENDED = {"norm.Scalar", "norm.ScalarOpt_dim"}  # AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE


def macro(name: str) -> set[str]:
    """The operations of a list in torch's header."""
    text = HEADER.read_text()
    body = text[text.index(f"#define {name}(_)") :].partition("\n")[2].partition("\n\n")[0]
    return {
        f"{packet}.{overload}" if overload else packet
        for packet, overload in re.findall(r"_\((\w+)(?:, (\w+))?\)", body)
    }


@pytest.mark.skipif(not HEADER.is_file(), reason="a torch without headers")
@pytest.mark.parametrize("name", LISTED)
def test_the_lists_are_those_of_torchs_header(name: str) -> None:
    ours, theirs = set(LISTED[name].split()), macro(name)
    assert len(theirs) > 10
    assert theirs - ours <= OF_CUDA_ALONE
    assert ours - theirs <= WHOLE | APPENDED


def test_the_lists_are_what_torch_registers_for_cuda() -> None:
    names = torch._C._dispatch_get_all_op_names()
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    theirs = {
        each.removeprefix("aten::")
        for each in names
        if each.startswith("aten::") and has(each, "AutocastCUDA")
    }
    ours = {each for names in LISTED.values() for each in names.split()}
    assert theirs - ours == OF_CUDA_ALONE | {"binary_cross_entropy"}
    assert ours - theirs == WHOLE


Make = Callable[..., Any]
CALLS: dict[str, Callable[[Make, Any], Any]] = {
    "_convolution": lambda t, op: op(
        t(1, 2, 5, 5),
        t(3, 2, 3, 3),
        t(3),
        [1, 1],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        1,
        False,
        False,
        False,
        False,
    ),
    "_convolution.deprecated": lambda t, op: op(
        t(1, 2, 5, 5),
        t(3, 2, 3, 3),
        t(3),
        [1, 1],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        1,
        False,
        False,
        False,
    ),
    "convolution": lambda t, op: op(
        t(1, 2, 5, 5), t(3, 2, 3, 3), t(3), [1, 1], [0, 0], [1, 1], False, [0, 0], 1
    ),
    "conv1d": lambda t, op: op(t(1, 2, 5), t(3, 2, 3), t(3)),
    "conv2d": lambda t, op: op(t(1, 2, 5, 5), t(3, 2, 3, 3), t(3)),
    "conv3d": lambda t, op: op(t(1, 2, 5, 5, 5), t(3, 2, 3, 3, 3), t(3)),
    "conv1d.padding": lambda t, op: op(t(1, 2, 5), t(3, 2, 3), t(3), [1], "same"),
    "conv2d.padding": lambda t, op: op(t(1, 2, 5, 5), t(3, 2, 3, 3), t(3), [1, 1], "same"),
    "conv3d.padding": lambda t, op: op(t(1, 2, 5, 5, 5), t(3, 2, 3, 3, 3), t(3), [1] * 3, "valid"),
    "conv_tbc": lambda t, op: op(t(5, 1, 2), t(3, 2, 3), t(3)),
    "conv_transpose1d": lambda t, op: op(t(1, 2, 5), t(2, 3, 3), t(3)),
    "conv_transpose2d.input": lambda t, op: op(t(1, 2, 5, 5), t(2, 3, 3, 3), t(3)),
    "conv_transpose3d.input": lambda t, op: op(t(1, 2, 5, 5, 5), t(2, 3, 3, 3, 3), t(3)),
    "prelu": lambda t, op: op(t(2, 3), t(1)),
    "addmm": lambda t, op: op(t(2, 4), t(2, 3), t(3, 4)),
    "addmv": lambda t, op: op(t(2), t(2, 3), t(3)),
    "addr": lambda t, op: op(t(2, 3), t(2), t(3)),
    "matmul": lambda t, op: op(t(2, 3), t(3, 4)),
    "einsum": lambda t, op: op("ij,jk->ik", [t(2, 3), t(3, 4)]),
    "mm": lambda t, op: op(t(2, 3), t(3, 4)),
    "mv": lambda t, op: op(t(2, 3), t(3)),
    "linalg_vecdot": lambda t, op: op(t(2, 3), t(2, 3)),
    "linear": lambda t, op: op(t(2, 3), t(4, 3), t(4)),
    "addbmm": lambda t, op: op(t(2, 4), t(5, 2, 3), t(5, 3, 4)),
    "baddbmm": lambda t, op: op(t(5, 2, 4), t(5, 2, 3), t(5, 3, 4)),
    "bmm": lambda t, op: op(t(5, 2, 3), t(5, 3, 4)),
    "chain_matmul": lambda t, op: op([t(2, 3), t(3, 4), t(4, 2)]),
    "linalg_multi_dot": lambda t, op: op([t(2, 3), t(3, 4), t(4, 2)]),
    "rnn_tanh_cell": lambda t, op: op(t(2, 3), t(2, 4), t(4, 3), t(4, 4), t(4), t(4)),
    "rnn_relu_cell": lambda t, op: op(t(2, 3), t(2, 4), t(4, 3), t(4, 4), t(4), t(4)),
    "scaled_dot_product_attention": lambda t, op: op(t(1, 2, 3, 4), t(1, 2, 3, 4), t(1, 2, 3, 4)),
    "pow.Tensor_Scalar": lambda t, op: op(t(3), 2),
    "pow.Tensor_Tensor": lambda t, op: op(t(3), t(3)),
    "pow.Scalar": lambda t, op: op(2, t(3)),
    "layer_norm": lambda t, op: op(t(2, 3), [3], t(3), t(3)),
    "native_layer_norm": lambda t, op: op(t(2, 3), [3], t(3), t(3), 1e-5),
    "rms_norm": lambda t, op: op(t(2, 3), [3], t(3)),
    "group_norm": lambda t, op: op(t(2, 4, 3), 2, t(4), t(4)),
    "frobenius_norm.dim": lambda t, op: op(t(2, 3), [1]),
    "nuclear_norm": lambda t, op: op(t(2, 3)),
    "nuclear_norm.dim": lambda t, op: op(t(2, 3), [0, 1]),
    "cosine_similarity": lambda t, op: op(t(2, 3), t(2, 3)),
    "poisson_nll_loss": lambda t, op: op(t(3), t(3), True, False, 1e-8, 1),
    "cosine_embedding_loss": lambda t, op: op(t(2, 3), t(2, 3), t(2)),
    "nll_loss": lambda t, op: op(t(2, 3), t.whole(2)),
    "nll_loss2d": lambda t, op: op(t(2, 3, 4, 4), t.whole(2, 4, 4)),
    "kl_div": lambda t, op: op(t(3), t(3)),
    "hinge_embedding_loss": lambda t, op: op(t(3), t(3)),
    "margin_ranking_loss": lambda t, op: op(t(3), t(3), t(3)),
    "multilabel_margin_loss": lambda t, op: op(t(2, 3), t.whole(2, 3)),
    "triplet_margin_loss": lambda t, op: op(t(2, 3), t(2, 3), t(2, 3)),
    "multi_margin_loss": lambda t, op: op(t(2, 3), t.whole(2)),
    "pdist": lambda t, op: op(t(3, 3)),
    "cdist": lambda t, op: op(t(2, 3), t(4, 3)),
    "renorm": lambda t, op: op(t(2, 3), 2, 0, 1.0),
    "logsumexp": lambda t, op: op(t(2, 3), [1]),
    "prod.dim_int": lambda t, op: op(t(2, 3), 1),
    "softmax.int": lambda t, op: op(t(2, 3), 1),
    "log_softmax.int": lambda t, op: op(t(2, 3), 1),
    "cumprod": lambda t, op: op(t(2, 3), 1),
    "cumsum": lambda t, op: op(t(2, 3), 1),
    "linalg_matrix_norm": lambda t, op: op(t(2, 3), 1),
    "linalg_matrix_norm.str_ord": lambda t, op: op(t(2, 3)),
    "sum.dim_IntList": lambda t, op: op(t(2, 3), [1]),
    "norm.ScalarOpt_dim": lambda t, op: op(t(2, 3), 2, [1]),
    "addcdiv": lambda t, op: op(t(3), t(3), t(3)),
    "addcmul": lambda t, op: op(t(3), t(3), t(3)),
    "bilinear": lambda t, op: op(t(2, 3), t(2, 4), t(5, 3, 4), t(5)),
    "cross": lambda t, op: op(t(2, 3), t(2, 3), 1),
    "grid_sampler": lambda t, op: op(t(1, 2, 4, 4), t(1, 3, 3, 2), 0, 0, False),
    "index_put": lambda t, op: op(t(4, 3), [t.whole(2)], t(2, 3)),
    "tensordot": lambda t, op: op(t(2, 3), t(3, 4), [1], [0]),
    "scatter_add": lambda t, op: op(t(2, 3), 1, t.whole(2, 3), t(2, 3)),
}
"""What each operation is called with; those that are not here take one tensor, or two of a shape."""
TWO = {"smooth_l1_loss", "huber_loss", "mse_loss", "l1_loss", "soft_margin_loss", "dist", "atan2"}
TWO |= {"dot", "vdot", "binary_cross_entropy_with_logits", "binary_cross_entropy"}
SIZES = {"1d": 1, "2d": 2, "3d": 3}


class Tensors:
    """Makes tensors in the dtypes that it is given, one after the other; the last one for all others."""

    def __init__(self, dtypes: tuple[Any, ...], device: str) -> None:
        self._dtypes, self._device, self._next = dtypes, device, count()

    def __call__(self, *shape: int) -> Any:
        dtype = self._dtypes[min(next(self._next), len(self._dtypes) - 1)]
        if self._device == "cuda":
            return torch.empty(shape, dtype=dtype, device="cuda")
        return torch.full(shape, 0.5, dtype=dtype)

    def whole(self, *shape: int) -> Any:
        make = torch.empty if self._device == "cuda" else torch.zeros
        return make(shape, dtype=torch.int64, device=self._device)


def call(name: str, tensors: Any) -> Any:
    packet, _, overload = name.partition(".")
    operation = getattr(getattr(torch.ops.aten, packet), overload or "default")
    if name in CALLS:
        return CALLS[name](tensors, operation)
    if "upsample" in name:
        size = next(number for each, number in SIZES.items() if each in name)
        last = () if "nearest" in name else (False,)
        return operation(tensors(1, 2, *[3] * size), [5] * size, *last)
    if name in TWO:
        return operation(tensors(3), tensors(3))
    return operation(tensors(3))


def outcome(name: str, tensors: Tensors) -> Any:
    """The dtypes of what an operation gives out, or why it refuses."""
    try:
        result = call(name, tensors)
    except RuntimeError as problem:
        found = re.search(r"unsafe to autocast|Unexpected floating ScalarType", str(problem))
        return found.group() if found else f"fails: {problem}"
    parts = result if isinstance(result, (tuple, list)) else [result]
    return [str(each.dtype) for each in parts]


MIXES = {
    "half": (torch.float16,),
    "float": (torch.float32,),
    "half, float": (torch.float16, torch.float32),
    "float, half": (torch.float32, torch.float16),
    "half, bfloat16": (torch.float16, torch.bfloat16),
    "bfloat16": (torch.bfloat16,),
    "double": (torch.float64,),
}


NOT_WITHOUT_ONE = {"lstm_cell", "gru_cell"}  # they ask for a GPU's own kernels
HARD = {"grid_sampler"}  # it cannot run without a GPU, where it does not refuse before


def names() -> list[str]:
    listed = [each for names in LISTED.values() for each in names.split()]
    without = {each for each in WHOLE if not each.startswith("conv")} | NOT_WITHOUT_ONE
    return [*(each for each in listed if each not in without), "binary_cross_entropy"]


def on_cuda(mix: tuple[Any, ...]) -> dict[str, Any]:
    with FakeTensorMode(), torch.no_grad():
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", torch.float16)
        try:
            return {each: outcome(each, Tensors(mix, "cuda")) for each in names()}
        finally:
            torch.set_autocast_enabled("cuda", False)


def emulated(mix: tuple[Any, ...], path: Path) -> dict[str, Any]:
    with traced(path), torch.autocast("cuda", dtype=torch.float16), torch.no_grad():
        return {each: outcome(each, Tensors(mix, "cpu")) for each in names()}


@pytest.mark.parametrize("mix", MIXES)
def test_what_each_operation_gives_out(tmp_path: Path, mix: str) -> None:
    theirs, ours = on_cuda(MIXES[mix]), emulated(MIXES[mix], tmp_path / "run.mpa")
    failed = {name for name, each in theirs.items() if str(each).startswith("fails")}
    assert failed <= HARD
    assert {**ours, **dict.fromkeys(failed)} == {**theirs, **dict.fromkeys(failed)}
    assert len(ours) > 110
