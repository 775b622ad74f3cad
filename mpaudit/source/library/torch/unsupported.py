"""Operations that take no tensor of 16 bits: linear algebra, Fourier transforms, and NumPy.

What raises was tried out with torch 2.13, in both dtypes; what the CPU's autocast casts, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import HalfGiven
from mpaudit.source.engine.dtypes import HALF, possible, reasons_of
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import Const, External, Pack, Thing, Value
from mpaudit.source.library.torch.dtypes import Mode
from mpaudit.source.library.torch.tensor import certain, mode

if TYPE_CHECKING:
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

_CAST_ON_CPU = frozenset(
    """inv inv_ex cholesky cholesky_ex svd svdvals eigh eigvalsh eig eigvals qr solve lstsq
    matrix_rank cond inverse geqrf cholesky_solve quantile nanquantile cdist fft ifft rfft irfft
    fft2 ifft2 rfft2 irfft2 fftn ifftn rfftn irfftn hfft ihfft stft""".split()  # noqa: SIM905
)
"""What the CPU's autocast runs in float32."""
_NEVER_CAST = frozenset(
    ["det", "logdet", "slogdet", "pinv", "pinverse", "lu", "lu_factor", "solve_triangular"]
)
_CAST_ON_CUDA = frozenset(["cdist"])
_FOURIER = frozenset(
    """fft ifft rfft irfft fft2 ifft2 rfft2 irfft2 fftn ifftn rfftn irfftn hfft ihfft stft""".split()  # noqa: SIM905
)
_METHODS = frozenset(
    [
        "inverse",
        "cholesky",
        "svd",
        "qr",
        "det",
        "logdet",
        "slogdet",
        "pinverse",
        "quantile",
        "nanquantile",
        "geqrf",
        "stft",
    ]
)
_WHERE = ("torch", "torch.linalg", "torch.fft")
_NUMPY = ("numpy.asarray", "numpy.array", "numpy.stack", "numpy.concatenate")


def _takes_no_half(name: str) -> bool:
    where, _, operation = name.rpartition(".")
    without = operation in _CAST_ON_CPU or operation in _NEVER_CAST
    return name in _NUMPY or (where in _WHERE and without)


@on_result(functions=_takes_no_half, methods=_METHODS | {"numpy"})
def given(call: Call, callee: Value, made: Value) -> None:  # noqa: ARG001 - as all hooks
    """A call of a library is over: look at what it was given."""
    if isinstance(callee, External):
        if callee.name in _NUMPY:
            _to_numpy(call, call.arguments[0] if call.arguments else None)
        elif call.arguments:
            name = callee.name.rpartition(".")[2]
            _without_kernel(call, name, call.arguments[0], of_function=True)
    elif isinstance(call.receiver, Thing) and not call.receiver.kind:
        if call.name == "numpy":
            _to_numpy(call, call.receiver)
        else:
            _without_kernel(call, call.name, call.receiver, of_function=False)


def _to_numpy(call: Call, value: Value | None) -> None:
    for each in _tensors(value, call.path):
        if "bfloat16" not in possible(each, call.path):
            continue
        known = certain(call.engine, each, call.path)
        if known is None or known.name != "bfloat16":
            continue
        direct = each is value
        node = call.argument_node(0) if call.receiver is None else None
        call.emit(
            HalfGiven(
                at=call.span,
                operation=_spelled(call),
                tensor=call.ref(each, node if direct else None) if direct else call.ref(None),
                dtype=known.name,
                to_numpy=True,
                method=call.receiver is not None,
                held=not direct,
                because=reasons_of(known),
            )
        )
        return


def _tensors(value: Value | None, path: Path) -> tuple[Value, ...]:
    """A tensor, or what is known to be in a list of tensors."""
    if value is None:
        return ()
    held = value if isinstance(value, Pack) else path.known(value, "@items")
    if isinstance(held, Pack):
        return held.items
    each = path.known(value, "@each")
    return (value,) if each is None else (each,)


def _without_kernel(call: Call, name: str, value: Value, *, of_function: bool) -> None:
    path = call.path
    if not possible(value, path) & set(HALF):
        return
    known = certain(call.engine, value, path)
    if known is None or known.name not in HALF or not _raises(call, name, known.name):
        return
    call.emit(
        HalfGiven(
            at=call.span,
            operation=_spelled(call),
            tensor=call.ref(value, call.argument_node(0) if of_function else None),
            dtype=known.name,
            to_numpy=False,
            method=not of_function,
            because=reasons_of(known),
        )
    )


def _raises(call: Call, name: str, dtype: str) -> bool:
    """Whether nothing casts the tensor first, on any device that it may be on."""
    here = mode(call.engine, call.path)
    here = None if here is None else call.engine.logic.pick(here, call.path)
    state = here.value if isinstance(here, Const) else None
    if not isinstance(state, Mode):
        return name in _NEVER_CAST
    if not state.on:
        return name not in _FOURIER or dtype == "bfloat16"
    if state.device == "cuda":
        return name not in _CAST_ON_CUDA and (name not in _FOURIER or dtype == "bfloat16")
    return name in _NEVER_CAST


def _spelled(call: Call) -> str:
    return " ".join(call.path.frame.module.source(call.node.func).split()).rpartition(".")[2]
