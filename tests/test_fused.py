"""The kernel of Triton that measures tensors on a GPU: run by Triton's interpreter, compiled for GPUs.

Neither needs a GPU; that it works on one is shown by the tests that do. Triton lies in a folder of its own,
which `make test-all` makes: a process that has loaded TensorFlow dies of it.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parents[1]
TRITON = Path(sys.prefix) / "triton"
apart = pytest.mark.skipif(not TRITON.is_dir(), reason="Triton is not there")
INF, NAN = float("inf"), float("nan")


def run(script: str, **variables: str) -> Any:
    """What a script prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{TRITON}", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


INTERPRETED = """
import json, torch
from mpaudit.runtime.torch import fused
from mpaudit.runtime.torch.on_cuda import works
numbers = torch.randn(9000, generator=torch.Generator().manual_seed(0)) * 100
bad = numbers.clone()
bad[[5, 4000]] = float("inf")
bad[[17, 2047, 8999]] = float("nan")
bad[[2048]] = float("-inf")
cases = [numbers, bad, bad[3:4], bad[17:18], numbers[:2048], torch.zeros(7), bad[2:8193]]
def row(tensor, processors):
    found = torch.zeros(4, dtype=torch.float64)
    fused.join(tensor, found, processors)
    return found.tolist()
def expected(tensor):
    wide = tensor.double()
    finite = wide[wide.isfinite()].abs()
    amax = finite.max().item() if finite.numel() else 0.0
    inf = float("inf")
    counts = (wide == inf, wide.isnan(), wide == -inf)
    return [amax, *(float(each.sum()) for each in counts)]
dtypes = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
print(json.dumps([
    [[row(each.to(dtype), processors), expected(each.to(dtype))]
     for each in cases for dtype in dtypes for processors in (1, 132)],
    [works(lambda tensor, found: fused.join(tensor, found, 1), "cpu", each) for each in dtypes],
    works(lambda tensor, found: fused.join(tensor[1:], found, 1), "cpu", torch.float16),
]))
"""


@pytest.mark.slow
@apart
def test_what_the_kernel_finds_is_what_torch_finds() -> None:
    pairs, works, broken = run(INTERPRETED, TRITON_INTERPRET="1")
    assert len(pairs) == 7 * 4 * 2
    for found, expected in pairs:
        assert found == expected
    assert works == [True] * 4
    assert not broken


COMPILED = """
import json, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mpaudit.runtime.torch import fused
found = []
for kind in ("fp16", "bf16", "fp32", "fp64"):
    source = ASTSource(
        fused.numbers,
        {"source": f"*{kind}", "row": "*fp64", "elements": "i32", "BLOCK": "constexpr"},
        {(3,): fused.BLOCK},
        {(place,): [["tt.divisibility", 16]] for place in range(3)},
    )
    for capability in (80, 90):
        target = GPUTarget("cuda", capability, 32)
        compiled = triton.compile(source, target=target, options={"num_warps": fused.WARPS})
        found.append([kind, compiled.asm["ptx"]])
print(json.dumps(found))
"""


@pytest.mark.slow
@apart
def test_the_kernel_compiles_for_gpus_and_reads_a_tensor_once() -> None:
    for kind, ptx in run(COMPILED):
        loads = re.findall(r"ld\.global\.(?:v(\d)\.)?b(\d+)", ptx)
        assert {int(vector or 1) * int(bits) for vector, bits in loads} == {128}, kind
        threads, size = 32 * 8, int(kind[-2:]) // 8
        assert len(loads) * 16 * threads == 2048 * size, kind
        assert ".local" not in ptx, f"{kind}: registers are spilled"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_one_kernel_finds_what_the_cpu_finds() -> None:
    from mpaudit.runtime.measured import Values
    from mpaudit.runtime.torch.measure import Numbers

    numbers = torch.randn(4, 6, 50, 70, generator=torch.Generator().manual_seed(0)) * 100
    bad = numbers.clone()
    bad[1, 2, 3, 4], bad[3, 5, 6, 7] = INF, NAN
    cases = [numbers, bad, numbers.to(memory_format=torch.channels_last), numbers[:, ::2, 1:]]
    failures: list[str] = []
    measured = Numbers(lambda where, problem: failures.append(f"{where}: {problem}"))
    found: list[Values] = []
    expected: list[Values] = []
    for tensor in cases:
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            measured.measure(tensor.to(dtype), expected.append)
            measured.measure(tensor.to("cuda").to(dtype), found.append)
    measured.drain()
    assert failures == []
    assert found == expected
    assert all(measured._on_cuda._fused.values()), "the kernel was not used"


def test_triton_is_not_loaded_after_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    from mpaudit.runtime.torch.on_cuda import OnCuda

    monkeypatch.setitem(sys.modules, "tensorflow", sys)
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.setitem(sys.modules, "mpaudit.runtime.torch.fused", sys)  # as if Triton were there
    failures: list[object] = []
    measuring = OnCuda(lambda *problem: failures.append(problem))
    assert measuring._found(torch.device("cuda"), torch.float16) is None
    assert "triton" not in sys.modules
    assert failures == []
