"""What dtype the static half says that a tensor has, with and without autocast."""

from __future__ import annotations

import pytest

from mpaudit.source.analysis import Engine
from mpaudit.source.engine.dtypes import dtype_of, parameter_dtype
from mpaudit.source.text.module import Module
from mpaudit.source.text.project import Project

IMPORTS = """
import math
import torch
import torch.nn.functional as F
from torch import nn
x, flag = torch.load("x.pt"), input()
linear, norm = nn.Linear(8, 8), nn.LayerNorm(8)
"""


def dtype_at_end(code: str, name: str = "y") -> str | None:
    """The dtype of a variable when the body of a script is through."""
    module = Module.parse(IMPORTS + code, "script.py")
    engine = Engine(Project())
    path = engine._start(module, engine._body(module, "__main__"))
    return dtype_of(engine.variable(name, path), path)


def region(body: str, arguments: str = "'cuda'") -> str:
    lines = "\n    ".join(body.splitlines())
    return f"with torch.autocast({arguments}):\n    {lines}\n"


@pytest.mark.parametrize(
    ("code", "dtype"),
    [
        ("y = x.half()", "float16"),
        ("y = x.to(torch.bfloat16)", "bfloat16"),
        ("y = x.to('cuda', torch.float16)", "float16"),
        ("y = x.half().to('cuda')", "float16"),
        ("y = x.half().to(x.device)", "float16"),
        ("y = x.half().to(flag)", None),
        ("y = x.half().float()", "float32"),
        ("y = x.to(dtype=torch.float)", "float32"),
        ("y = x.type(torch.cuda.HalfTensor)", "float16"),
        ("h = x.half()\ny = x.to(h.dtype)", "float16"),
        ("h = x.half()\ny = x.to(h)", "float16"),
        ("h = x.half()\ny = x.type_as(h)", "float16"),
        ("h = x.half()\ny = h.new_zeros(3)", "float16"),
        ("h = x.half()\ny = torch.zeros_like(h)", "float16"),
        ("h = x.half()\ny = torch.zeros_like(h, dtype=torch.long)", "int64"),
        ("y = torch.zeros(3, dtype=torch.float16)", "float16"),
        ("y = torch.zeros(3)", "float32"),
        ("y = torch.arange(3)", "int64"),
        ("y = x", None),
        ("y = x.half() if flag else x.float()", None),
    ],
)
def test_stated(code, dtype):
    assert dtype_at_end(code) == dtype


@pytest.mark.parametrize(
    ("code", "dtype"),
    [
        ("y = linear(x)", "float16"),
        ("y = norm(x)", "float32"),
        ("y = norm(linear(x))", "float32"),
        ("y = x @ x.T", "float16"),
        ("y = torch.matmul(x, x)", "float16"),
        ("y = x.bmm(x)", "float16"),
        ("y = x + 1", None),
        ("y = linear(x) + 1", "float16"),
        ("y = linear(x) / math.sqrt(x.size(-1))", "float16"),
        ("y = linear(x) + x", None),
        ("y = linear(x) + norm(x)", "float32"),
        ("y = linear(x) * x.shape[-1] ** -0.5", "float16"),
        ("y = linear(x) / norm(x).sum()", "float16"),
        ("y = F.softmax(linear(x), dim=-1)", "float32"),
        ("y = linear(x).softmax(-1)", "float32"),
        ("y = linear(x) ** 2", "float32"),
        ("y = linear(x).mean()", "float16"),
        ("y = linear(x) * norm(x).mean()", "float16"),
        ("y = linear(x) * norm(x).mean(-1)", "float32"),
        ("y = linear(x).view(2, 4).transpose(0, 1)[0]", "float16"),
        ("y = torch.cat([linear(x), norm(x)])", "float32"),
        ("y = torch.cat([linear(x), linear(x)], dim=1)", "float16"),
        ("y = -linear(x)", "float16"),
        ("a, b = linear(x).chunk(2)\ny = b", "float16"),
        ("y = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout())(x)", "float16"),
        ("y = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU())(x)", "float32"),
        ("y = F.cross_entropy(linear(x), flag)", "float32"),
        ("y = nn.MSELoss()(linear(x), x)", "float32"),
        ("y = F.interpolate(linear(x), 4)", None),
        ("y = nn.BatchNorm1d(8)(linear(x))", "float16"),
        ("y = flag(linear(x))", None),
    ],
)
def test_in_a_region_for_cuda(code, dtype):
    assert dtype_at_end(region(code)) == dtype


@pytest.mark.parametrize(
    ("arguments", "body", "dtype"),
    [
        ("'cuda', dtype=torch.bfloat16", "y = linear(x)", "bfloat16"),
        ("'cpu'", "y = linear(x)", "bfloat16"),
        ("'cpu', dtype=torch.float16", "y = linear(x).softmax(-1)", "float16"),
        ("'cpu', dtype=torch.float16", "y = F.mse_loss(linear(x), x)", "float32"),
        ("flag, dtype=torch.float16", "y = linear(x)", "float16"),
        ("flag, dtype=torch.float16", "y = linear(x).softmax(-1)", None),
        ("'cuda', enabled=flag", "y = linear(x)", "float16"),
        ("'cuda', enabled=False", "y = linear(x)", None),
        ("'cuda', enabled=False", "y = linear(x.half())", "float16"),
        ("'cuda', enabled=False", "y = x.half().softmax(-1)", "float16"),
        ("'cuda', dtype=flag", "y = linear(x)", None),
        ("'cuda', dtype=flag", "y = norm(x)", "float32"),
        (
            "'cuda', dtype=torch.float16 if flag else torch.bfloat16",
            "y = linear(x)",
            None,
        ),
    ],
)
def test_by_the_region(arguments, body, dtype):
    assert dtype_at_end(region(body, arguments)) == dtype


@pytest.mark.parametrize(
    ("code", "dtype"),
    [
        ("y = x.half() @ x", "float16"),
        ("y = x.half().softmax(-1)", "float16"),
        ("y = linear(x)", None),
        ("linear.half()\ny = linear(x)", "float16"),
        ("net = nn.Sequential(linear)\nnet.half()\ny = net(x)", "float16"),
        (region("h = linear(x)") + "y = h * 2", "float16"),
        (region("h = linear(x)") + "y = h * x", None),
        (region("h = linear(x)") + "y = h.float()", "float32"),
    ],
)
def test_outside_of_regions(code, dtype):
    assert dtype_at_end(code) == dtype


def test_on_the_path_where_the_switch_is_off_nothing_is_half():
    code = region("h = linear(x)", "'cuda', enabled=flag")
    assert dtype_at_end(code + "if flag:\n    y = h\nelse:\n    y = None\n") == "float16"
    assert dtype_at_end(code + "y = None\nif not flag:\n    y = h\n") is None


def test_a_guard_on_the_dtype_is_decided():
    code = "h = x.half()\ny = x.long() if h.dtype == torch.float16 else x.double()"
    assert dtype_at_end(code) == "int64"
    code = "h = x.half()\ny = x.long() if h.dtype in (torch.float32, torch.float64) else x.short()"
    assert dtype_at_end(code) == "int16"


def test_the_dtype_of_parameters_reaches_the_parts():
    module = Module.parse(
        IMPORTS + "net = nn.Sequential(linear, norm)\nnet.to(torch.bfloat16)", "s.py"
    )
    engine = Engine(Project())
    path = engine._start(module, engine._body(module, "__main__"))
    for name in ("net", "linear", "norm"):
        known = parameter_dtype(engine.variable(name, path), path)
        assert known is not None
        assert known.name == "bfloat16"
