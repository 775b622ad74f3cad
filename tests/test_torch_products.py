"""Matrix products with a dtype of their own, which torch has for GPUs alone: kernels of trl call them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from watched import trace  # noqa: E402

from mpaudit.runtime.frame import is_users  # noqa: E402

if not hasattr(torch.ops.aten.mm, "dtype"):  # before torch 2.8
    pytest.skip("torch has no out_dtype", allow_module_level=True)


def operands(*shapes: tuple[int, ...]) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).half() for shape in shapes]


@pytest.mark.parametrize("inside", [False, True])
def test_their_sums_in_float32_are_the_result(tmp_path: Path, inside: bool) -> None:
    a, b = operands((5, 70), (70, 3))
    many, others = operands((2, 5, 7), (2, 7, 3))
    added, each = torch.randn(5, 3), torch.randn(2, 5, 3)
    exact, batched = a.float() @ b.float(), many.float() @ others.float()
    wanted = {
        "mm": exact,
        "addmm": added + exact,
        "less": 2.0 * added - 0.5 * exact,
        "out": added + exact,
        "bmm": batched,
        "baddbmm": each + batched,
    }
    kind: dict[str, Any] = {"out_dtype": torch.float32}

    def loop() -> dict[str, Any]:
        left, right, sums = a.cuda(), b.cuda(), added.cuda()
        into = sums.clone()
        with torch.autocast("cuda", enabled=inside):
            torch.addmm(into, left, right, out=into, **kind)
            return {
                "mm": torch.mm(left, right, **kind),
                "addmm": torch.addmm(sums, left, right, **kind),
                "less": torch.addmm(sums, left, right, beta=2.0, alpha=-0.5, **kind),
                "out": into,
                "bmm": torch.bmm(many.cuda(), others.cuda(), **kind),
                "baddbmm": torch.baddbmm(each.cuda(), many.cuda(), others.cuda(), **kind),
            }

    found, _ = trace(tmp_path, loop)
    for name, result in found.items():
        assert result.dtype is torch.float32
        torch.testing.assert_close(result, wanted[name], rtol=1e-6, atol=1e-6)
    assert (found["mm"] != (a @ b).float()).any()  # not rounded on the way
    with pytest.raises(NotImplementedError):
        torch.mm(a, b, **kind)


def test_packages_of_another_environment_are_nobodys_own() -> None:
    assert not is_users("/opt/software/lib/python3.12/site-packages/accelerate/accelerator.py")
    assert not is_users("/usr/local/lib/python3/dist-packages/torchvision/models/resnet.py")
    assert is_users("/home/me/site/packages/train.py")
