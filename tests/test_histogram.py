"""Histograms by power of two against numpy, on tensors that hooks of the test's own recorded."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpaudit.render import html
from mpaudit.runtime.histogram import FORMATS, KINDS, Histogram, total
from mpaudit.runtime.summary import summarise

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from watched import batches, model, trace  # noqa: E402

from mpaudit.runtime.octaves import SAMPLE, read  # noqa: E402
from mpaudit.runtime.sampling import sampled  # noqa: E402
from mpaudit.runtime.torch import octaves  # noqa: E402

LIMITS = {  # smallest subnormal, smallest normal, the power of two above the largest number
    "float16": (2.0**-24, 2.0**-14, 2.0**16),
    "bfloat16": (2.0**-133, 2.0**-126, math.inf),
    "float8_e4m3fn": (2.0**-9, 2.0**-6, 2.0**9),
    "float8_e5m2": (2.0**-16, 2.0**-14, 2.0**16),
}


def expected(numbers: Any) -> tuple[dict[int, int], int, int, int]:
    """Counts by exponent, then of zeros, infs and NaNs; with numpy, in float64."""
    values = np.abs(np.asarray(numbers, dtype=np.float64).ravel())
    finite = values[np.isfinite(values) & (values > 0)]
    exponents, found = np.unique(np.frexp(finite)[1] - 1, return_counts=True)
    bins = dict(zip(exponents.tolist(), found.tolist(), strict=True))
    return bins, int((values == 0).sum()), int(np.isinf(values).sum()), int(np.isnan(values).sum())


def counted(values: Any) -> list[tuple[dict[int, int], int, int, int]]:
    """As the device counts, and as the CPU does."""
    found = []
    for each in (octaves.counts(values).tolist(), octaves.counts_on_cpu(values)):
        first, inside, *apart = read(each)
        found.append(({first + n: count for n, count in enumerate(inside) if count}, *apart))
    return found


def of(histogram: Histogram) -> tuple[dict[int, int], int, int, int]:
    return histogram.bins, histogram.zeros, histogram.inf, histogram.nan


def numbers(dtype: Any) -> Any:
    """All of float16's numbers, or as many of another dtype, from everywhere in its range."""
    if dtype in (torch.float16, torch.bfloat16):
        return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (50_000,), generator=generator, dtype=torch.int64)
    return bits.to(torch.int32).view(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_number_is_counted_where_it_belongs(dtype: Any) -> None:
    values = numbers(dtype)
    assert counted(values) == [expected(values.double().numpy())] * 2


def test_what_is_not_ordinary_is_counted_the_same() -> None:
    ordinary = torch.tensor([0.0, -0.0, 1.0, -3.0, 2.0**-126, 3.4e38, 65504.0, 2.0**-24])
    assert counted(ordinary) == [expected(ordinary.double().numpy())] * 2
    for odd in (2.0**-149, 2.0**-130, math.inf, -math.inf, math.nan):
        values = torch.cat([ordinary, torch.tensor([odd])])
        assert counted(values) == [expected(values.double().numpy())] * 2


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@pytest.mark.parametrize("shift", [0, -16, 9])
def test_shares_are_those_of_the_real_cast(form: Any, shift: int) -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(20_000, generator=generator).double() * 2.0 ** torch.randint(
        -40, 20, (20_000,), generator=generator
    )
    bins, zeros, inf, nan = expected(values.numpy())
    first = min(bins)
    row = tuple(bins.get(n, 0) for n in range(first, max(bins) + 1))
    found = Histogram("0", "gradient", "float32", 1.0, 1, 20_000, zeros, inf, nan, first, row)
    shares = found.shifted(shift).shares(form)
    assert shares is not None
    exact = (values * 2.0**shift).abs()
    _, normal, top = LIMITS[form.name]
    cast = exact.float().to(getattr(torch, form.name)).double()
    assert shares.flushed == pytest.approx(float((cast == 0).double().mean()), abs=1e-12)
    small = ((cast > 0) & (exact < normal)).double().mean()
    assert shares.subnormal == pytest.approx(float(small), abs=1e-12)
    assert shares.overflow == pytest.approx(float((exact >= top).double().mean()), abs=1e-12)
    if form.name == "float16":  # all but the numbers from 65520 to 65536
        gone = float(torch.isinf(cast).double().mean())
        assert shares.overflow == pytest.approx(gone, abs=1e-3)


@pytest.mark.parametrize(
    "shape", [(1024, 4096), (4096, 768), (3, 700, 700), (SAMPLE,), (SAMPLE + 1,)]
)
def test_a_sample_is_small_and_from_every_row_and_column(shape: tuple[int, ...]) -> None:
    size = math.prod(shape)
    tensor = torch.arange(size).view(shape)
    taken = octaves.sample(tensor)
    assert taken.numel() <= SAMPLE
    assert taken.data_ptr() == tensor.data_ptr()  # nothing is copied
    if size > SAMPLE:
        starts = range(
            0,
            size // octaves.BLOCK * octaves.BLOCK,
            octaves.BLOCK * octaves.stride(size // octaves.BLOCK),
        )
        assert taken.flatten().tolist() == [at + n for at in starts for n in range(octaves.BLOCK)]
    else:
        assert taken.tolist() == list(range(size))
    if len(shape) > 1:
        assert set((taken % shape[-1]).flatten().tolist()) == set(range(shape[-1]))
        rows = set((taken // shape[-1] % shape[-2]).flatten().tolist())
        assert len(rows) >= min(shape[-2], SAMPLE // octaves.BLOCK) / 4
    assert set(
        octaves.sample(tensor.t() if tensor.dim() == 2 else tensor).flatten().tolist()
    ) <= set(range(size))


class Noted:
    """Outputs and their gradients, of leaf layers, in the steps that are sampled."""

    def __init__(self, network: Any) -> None:
        self.step = 0
        self.kept: dict[tuple[str, str, int], list[Any]] = {}
        for name, layer in network.named_modules():
            if not layer._modules:
                layer.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            self.keep(name, "activation", output)
            if output.requires_grad:
                step = self.step
                output.register_hook(lambda grad: self.keep(name, "gradient", grad, step))

        return hook

    def keep(self, name: str, what: str, tensor: Any, step: int | None = None) -> None:
        key = (name, what, self.step if step is None else step)
        self.kept.setdefault(key, []).append(tensor.detach().clone())


def noted_training(noted: Noted, network: Any, scales: dict[int, float], steps: int) -> None:
    """AMP with float16 on the CPU's own kernels; the scale grows in every third step."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**9, growth_interval=3)
    given = batches(6)
    for step in range(steps):
        noted.step = step
        inputs, labels = given[step % len(given)]
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = nn.functional.cross_entropy(network(inputs).float(), labels)
        if step == 4:
            loss = loss * math.inf  # this one is skipped
        scales[step] = scaler.get_scale()
        scaler.scale(loss).backward()
        for name, layer in network.named_modules():
            for _, parameter in layer.named_parameters(recurse=False):
                noted.keep(name, "weight", parameter)
                noted.keep(name, "weight_gradient", parameter.grad)
        scaler.step(optimizer)
        scaler.update()


def every(reader: Any) -> list[Histogram]:
    return [each for found in reader.histograms().values() for each in found]


def test_a_run_is_counted_as_own_hooks_see_it(tmp_path: Path) -> None:
    network = model()
    noted, scales = Noted(network), {}
    _, reader = trace(tmp_path, lambda: noted_training(noted, network, scales, 12))
    found = {(h.layer, h.what, h.dtype, h.scale): h for h in every(reader)}
    wanted: dict[tuple[str, str, str, float], list[Any]] = {}
    for (name, what, step), tensors in noted.kept.items():
        if step not in (0, 1, 2, 4, 8) or (step == 4 and what == "weight_gradient"):
            continue  # these are looked at when they are applied, and step 4 is skipped
        scale = scales[step] if "gradient" in what else 1.0
        for tensor in tensors:
            dtype = str(tensor.dtype).removeprefix("torch.")
            wanted.setdefault((name, what, dtype, scale), []).append(tensor)
    assert len({scale for *_, scale in wanted}) > 2
    assert found.keys() == wanted.keys()
    for key, tensors in wanted.items():
        together = np.concatenate([each.double().numpy().ravel() for each in tensors])
        assert of(found[key]) == expected(together), key
        assert (found[key].tensors, found[key].elements) == (len(tensors), together.size)
        assert found[key].sampled == together.size


def test_the_course_of_the_headroom_is_kept(tmp_path: Path) -> None:
    network = model()
    noted, scales = Noted(network), {}
    _, reader = trace(tmp_path, lambda: noted_training(noted, network, scales, 12))
    assert reader.peaks().keys() == {"", "0", "1", "2"}
    for name in ("0", "1", "2"):
        course = reader.peaks()[name]
        own = [float(noted.kept[name, "activation", step][0].abs().max()) for step in range(12)]
        assert (course.steps, course.width, list(course.peaks)) == (12, 1, own)
        bits = np.log2(65504 / np.array(own))
        assert course.trend == pytest.approx(np.median(bits[-3:]) - np.median(bits[:3]))


def test_without_the_scale_numbers_are_where_float32_has_them(tmp_path: Path) -> None:
    network = model()
    noted, scales = Noted(network), {}
    _, reader = trace(tmp_path, lambda: noted_training(noted, network, scales, 9))
    rows = [h for h in every(reader) if (h.layer, h.what) == ("0", "gradient")]
    assert len(rows) > 1
    whole = total(row.unscaled for row in rows)
    assert whole is not None
    real = [
        (each.double() / scales[step]).numpy().ravel()
        for (name, what, step), tensors in noted.kept.items()
        for each in tensors
        if (name, what) == ("0", "gradient") and sampled(step)
    ]
    assert of(whole) == expected(np.concatenate(real))


def test_the_page_draws_what_own_hooks_see(tmp_path: Path) -> None:
    network = model()
    noted, scales = Noted(network), {}
    _, reader = trace(tmp_path, lambda: noted_training(noted, network, scales, 9))
    page = html.render(summarise(reader))
    figures = dict(
        re.findall(r'<figure class="timeline" data-what="(\w+)">(.*?)</figure>', page, re.S)
    )
    assert figures.keys() == set(KINDS)
    for what, figure in figures.items():
        real = np.concatenate(
            [
                each.double().numpy().ravel()
                for (_, kind, step), tensors in noted.kept.items()
                for each in tensors
                if kind == what and sampled(step) and not (step == 4 and what == "weight_gradient")
            ]
        )
        bins, zeros, *_ = expected(real)
        drawn = re.findall(r'data-exponent="(-?\d+)" data-share="(.*?)"', figure)
        shares = {int(exponent): float(share) for exponent, share in drawn}
        wanted: dict[int, float] = {}
        for exponent, count in bins.items():
            at = max(exponent, -48)
            wanted[at] = wanted.get(at, 0.0) + count / real.size
        assert shares == pytest.approx(wanted)
        (share,) = re.findall(r'count zeros" data-share="(.*?)"', figure)
        assert float(share) == pytest.approx(zeros / real.size)
        nonzero = sum(bins.values())
        for form in FORMATS:
            tiny, normal, top = LIMITS[form.name]
            lost = {
                "over": sum(n for e, n in bins.items() if 2.0**e >= top),
                "subnormal": sum(n for e, n in bins.items() if tiny / 2 <= 2.0**e < normal),
                "flushed": sum(n for e, n in bins.items() if 2.0**e < tiny / 2),
            }
            row = re.search(rf'data-format="{form.name}" class="">(.*?)</tr>', figure, re.S)
            assert row is not None
            for name, count in lost.items():
                told = re.search(rf'class="{name}" value="(.*?)"', row[1])
                assert told is not None
                assert float(told[1]) == pytest.approx(count / nonzero), (what, form.name, name)
        assert ('class="before"' in figure) == what.endswith("gradient")


def test_only_some_steps_are_looked_at() -> None:
    assert [step for step in range(301) if sampled(step)] == [
        0,
        1,
        2,
        4,
        8,
        16,
        32,
        64,
        100,
        200,
        300,
    ]
