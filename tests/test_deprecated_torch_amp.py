"""MP701: what is reported, how it is rewritten, and that the new code does what the old one did."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path
from textwrap import dedent

import pytest
from click.testing import CliRunner

from mpaudit.audit import fix_text
from mpaudit.checks.deprecated_torch_amp import check
from mpaudit.cli import main
from mpaudit.config import Target
from mpaudit.finding import Problem
from mpaudit.fix import Fix, Safety, apply
from mpaudit.source.text.module import Module

ARTICLE = Path(__file__).parents[1] / "fixtures" / "article" / "article_pytorch.py"


def checked(text: str, filename: str = "/nowhere/train.py") -> tuple[Problem, Fix | None] | None:
    """The one finding of `text` with its fix, None if there is none."""
    found = list(check(Module.parse(text, filename)))
    assert len(found) <= 1
    return found[0] if found else None


def fixed(text: str, safety: Safety = Safety.SAFE) -> str:
    """`text` after its fix, which must have that safety, parse, and leave nothing to find."""
    found = checked(text)
    assert found is not None
    _, fix = found
    assert fix is not None and fix.safety is safety
    new, applied = apply(text, [fix])
    assert applied == (fix,)
    ast.parse(new)
    assert checked(new) is None
    return new


TORCHFIX_BREAKS = [
    (
        "from torch.cuda.amp import autocast\nwith autocast():\n    pass\n",
        'from torch.amp import autocast\nwith autocast("cuda"):\n    pass\n',
    ),
    (
        "import torch.cuda.amp as amp\nwith amp.autocast():\n    pass\n",
        'import torch.amp as amp\nwith amp.autocast("cuda"):\n    pass\n',
    ),
    (
        "import torch as th\nwith th.cuda.amp.autocast(False):\n    pass\n",
        'import torch as th\nwith th.amp.autocast("cuda", enabled=False):\n    pass\n',
    ),
]

CALLS = [
    (
        "import torch\nc = torch.cuda.amp.autocast()\n",
        'import torch\nc = torch.amp.autocast("cuda")\n',
    ),
    (
        "import torch\nc = torch.cpu.amp.autocast(dtype=torch.bfloat16)\n",
        'import torch\nc = torch.amp.autocast("cpu", dtype=torch.bfloat16)\n',
    ),
    (
        "import torch\nc = torch.cuda.amp.autocast(True, torch.float16, False)\n",
        "import torch\n"
        'c = torch.amp.autocast("cuda", enabled=True, dtype=torch.float16, cache_enabled=False)\n',
    ),
    (
        "import torch\nuse = 1\nc = torch.cpu.amp.autocast((use and True), )\n",
        'import torch\nuse = 1\nc = torch.amp.autocast("cpu", enabled=(use and True), )\n',
    ),
    (
        "import torch\nc = torch.cuda.amp.autocast(\n    # half\n    enabled=True,  # on\n)\n",
        'import torch\nc = torch.amp.autocast(\n    # half\n    "cuda", enabled=True,  # on\n)\n',
    ),
    (
        "import torch\nc = torch.cuda.amp.autocast(  # nothing (here)\n)\n",
        'import torch\nc = torch.amp.autocast("cuda"  # nothing (here)\n)\n',
    ),
    (
        "import torch\nkw = {}\nc = torch.cuda.amp.autocast(**kw)\n",
        'import torch\nkw = {}\nc = torch.amp.autocast("cuda", **kw)\n',
    ),
    (
        "import torch\nc = (torch.cuda.amp.autocast)()\n",
        'import torch\nc = (torch.amp.autocast)("cuda")\n',
    ),
    (
        "import torch\ns = torch.cuda.amp.GradScaler(1024.0, 2.0, enabled=False)\n",
        "import torch\n"
        's = torch.amp.GradScaler("cuda", init_scale=1024.0, growth_factor=2.0, enabled=False)\n',
    ),
    (
        "import torch\na = [1024.0]\ns = torch.cpu.amp.GradScaler(*a)\n",
        'import torch\na = [1024.0]\ns = torch.amp.GradScaler("cpu", *a)\n',
    ),
    (
        "import torch\ns = torch.cuda.amp.grad_scaler.GradScaler()\n",
        'import torch\ns = torch.amp.GradScaler("cuda")\n',
    ),
    (
        "import torch\nd = {'a': f'{len(\",\")},'}\n"
        "s = torch.cuda.amp.GradScaler(len(d['a']), 3.0)\n",
        "import torch\nd = {'a': f'{len(\",\")},'}\n"
        "s = torch.amp.GradScaler('cuda', init_scale=len(d['a']), growth_factor=3.0)\n",
    ),
    (
        "import torch\nd = torch.get_autocast_gpu_dtype()\ntorch.set_autocast_gpu_dtype(d)\n",
        'import torch\nd = torch.get_autocast_dtype("cuda")\ntorch.set_autocast_dtype("cuda", d)\n',
    ),
    (
        "import torch\non = torch.is_autocast_cpu_enabled()\ntorch.set_autocast_cpu_enabled(on)\n",
        "import torch\n"
        'on = torch.is_autocast_enabled("cpu")\ntorch.set_autocast_enabled("cpu", on)\n',
    ),
    (
        "from torch import get_autocast_cpu_dtype\nd = get_autocast_cpu_dtype()\n",
        'from torch import get_autocast_dtype\nd = get_autocast_dtype("cpu")\n',
    ),
    (
        "from contextlib import nullcontext\nfrom torch.cuda.amp import autocast\n"
        "with autocast(), nullcontext():\n    pass\n",
        "from contextlib import nullcontext\nfrom torch.amp import autocast\n"
        'with autocast("cuda"), nullcontext():\n    pass\n',
    ),
]

DECORATORS = [
    (
        "import torch\n@torch.cuda.amp.autocast()\ndef f(): ...\n",
        'import torch\n@torch.amp.autocast("cuda")\ndef f(): ...\n',
    ),
    (
        "import torch\n@torch.cuda.amp.custom_fwd\ndef f(ctx): ...\n"
        "@torch.cuda.amp.custom_bwd\ndef b(ctx): ...\n",
        'import torch\n@torch.amp.custom_fwd(device_type="cuda")\ndef f(ctx): ...\n'
        '@torch.amp.custom_bwd(device_type="cuda")\ndef b(ctx): ...\n',
    ),
    (
        "import torch\nfrom torch.cuda.amp import custom_fwd\n"
        "@custom_fwd(cast_inputs=torch.float32)\ndef f(ctx): ...\n",
        "import torch\nfrom torch.amp import custom_fwd\n"
        '@custom_fwd(device_type="cuda", cast_inputs=torch.float32)\ndef f(ctx): ...\n',
    ),
    (
        "from torch.cuda.amp import custom_bwd, custom_fwd\ndef f(ctx): ...\n"
        "g = custom_fwd(f)\nb = custom_bwd(bwd=f)\nh = custom_fwd(f, cast_inputs=None)\n",
        "from torch.amp import custom_bwd, custom_fwd\ndef f(ctx): ...\n"
        'g = custom_fwd(f, device_type="cuda")\nb = custom_bwd(device_type="cuda", bwd=f)\n'
        'h = custom_fwd(f, device_type="cuda", cast_inputs=None)\n',
    ),
]

IMPORTS = [
    (
        "from torch.cuda import amp\ns = amp.GradScaler()\n",
        'from torch import amp\ns = amp.GradScaler("cuda")\n',
    ),
    (
        "from torch.cuda import amp, nvtx\ns = amp.GradScaler()\n",
        'from torch.cuda import nvtx\nfrom torch import amp\ns = amp.GradScaler("cuda")\n',
    ),
    (
        "from torch import cuda\ns = cuda.amp.GradScaler()\n",
        'import torch\nfrom torch import cuda\ns = torch.amp.GradScaler("cuda")\n',
    ),
    (
        "import torch.cuda.amp\ns = torch.cuda.amp.GradScaler()\n",
        'import torch.amp\ns = torch.amp.GradScaler("cuda")\n',
    ),
    (
        "import os, torch.cuda.amp as amp\ns = amp.GradScaler()\n",
        'import os, torch.amp as amp\ns = amp.GradScaler("cuda")\n',
    ),
    (
        "import torch.cuda.amp as amp\ns = amp.GradScaler()\nm = amp.common\n",
        "import torch\nimport torch.cuda.amp as amp\n"
        's = torch.amp.GradScaler("cuda")\nm = amp.common\n',
    ),
    (
        "import torch.cuda.amp as c\nimport torch.cpu.amp as p\n"
        "a, b = c.autocast(), p.autocast()\n",
        "import torch.amp as c\nimport torch.amp as p\n"
        'a, b = c.autocast("cuda"), p.autocast("cpu")\n',
    ),
    (
        "import torch\namp = torch.cuda.amp\ns = amp.GradScaler()\n",
        'import torch\namp = torch.amp\ns = amp.GradScaler("cuda")\n',
    ),
    (
        "import torch\ncast = torch.cuda.amp.autocast\nwith cast(False):\n    pass\n",
        'import torch\ncast = torch.amp.autocast\nwith cast("cuda", enabled=False):\n    pass\n',
    ),
    (
        "from torch.cuda.amp import autocast as ac, GradScaler\na, s = ac(), GradScaler()\n",
        'from torch.amp import autocast as ac, GradScaler\na, s = ac("cuda"), GradScaler("cuda")\n',
    ),
    (
        "from torch.cuda.amp import (  # both\n    autocast,\n    GradScaler,  # scales\n)\n"
        "a, s = autocast(), GradScaler()\n",
        "from torch.amp import (  # both\n    autocast,\n    GradScaler,  # scales\n)\n"
        'a, s = autocast("cuda"), GradScaler("cuda")\n',
    ),
    (
        "from torch.cuda.amp.common import amp_definitely_not_available\n"
        "from torch.cuda.amp import GradScaler, amp_definitely_not_available as no\n"
        "s = GradScaler()\n",
        "from torch.cuda.amp.common import amp_definitely_not_available\n"
        "from torch.cuda.amp import amp_definitely_not_available as no\n"
        'from torch.amp import GradScaler\ns = GradScaler("cuda")\n',
    ),
    (
        "from torch.cuda.amp import (\n    amp_definitely_not_available,  # no\n"
        "    GradScaler,  # scales\n)\ns = GradScaler()\n",
        "from torch.cuda.amp import (\n    amp_definitely_not_available,  # no\n"
        '      # scales\n)\nfrom torch.amp import GradScaler\ns = GradScaler("cuda")\n',
    ),
    (
        "from torch.amp import autocast\nfrom torch.cuda.amp import GradScaler\n"
        'c, s = autocast("cuda"), GradScaler()\n',
        'from torch.amp import autocast, GradScaler\nc, s = autocast("cuda"), GradScaler("cuda")\n',
    ),
    (
        "from torch.cuda.amp import GradScaler\nfrom torch.amp import autocast\n"
        'c, s = autocast("cuda"), GradScaler()\n',
        'from torch.amp import autocast, GradScaler\nc, s = autocast("cuda"), GradScaler("cuda")\n',
    ),
    (
        "from torch.cuda.amp import autocast\nfrom torch.cuda.amp import GradScaler\n"
        "c, s = autocast(), GradScaler()\n",
        "from torch.amp import autocast\nfrom torch.amp import GradScaler\n"
        'c, s = autocast("cuda"), GradScaler("cuda")\n',
    ),
    (
        "from torch.cuda.amp import autocast\nfrom torch.cpu.amp import autocast as cpu\n"
        "a, b = autocast(), cpu()\n",
        "from torch.amp import autocast\nfrom torch.amp import autocast as cpu\n"
        'a, b = autocast("cuda"), cpu("cpu")\n',
    ),
    (
        "def f():\n    import os; from torch.cuda.amp import GradScaler; "
        "return GradScaler()\nf()\n",
        "def f():\n    import os; from torch.amp import GradScaler; "
        'return GradScaler("cuda")\nf()\n',
    ),
    (
        "if True: from torch.cuda import amp, nvtx\ns = amp.GradScaler()\n",
        'if True: from torch.cuda import nvtx; from torch import amp\ns = amp.GradScaler("cuda")\n',
    ),
    (
        "def late():\n    from torch.cuda.amp import autocast\n    return autocast()\nlate()\n",
        'def late():\n    from torch.amp import autocast\n    return autocast("cuda")\nlate()\n',
    ),
]

TYPES = [
    (
        "import torch\nimport typing as tp\n"
        "def f(s: torch.cuda.amp.GradScaler, t: tp.Optional[torch.cuda.amp.GradScaler]): ...\n",
        "import torch\nimport typing as tp\n"
        "def f(s: torch.amp.GradScaler, t: tp.Optional[torch.amp.GradScaler]): ...\n",
    ),
    (
        "from torch.cuda.amp import GradScaler\ns: GradScaler | None = None\n"
        "ok = isinstance(s, (int, GradScaler))\n",
        "from torch.amp import GradScaler\ns: GradScaler | None = None\n"
        "ok = isinstance(s, (int, GradScaler))\n",
    ),
    (
        "from torch.cuda.amp import GradScaler\ndef f(s: 'GradScaler | None'): ...\n",
        "from torch.amp import GradScaler\ndef f(s: 'GradScaler | None'): ...\n",
    ),
]

DTYPES = [
    (  # the old region pins float16 also inside a bfloat16 region
        "import torch\nwith torch.autocast('cuda', dtype=torch.bfloat16):\n"
        "    c = torch.cuda.amp.autocast()\n"
        "    with torch.cuda.amp.autocast(enabled=False):\n        pass\n",
        "import torch\nwith torch.autocast('cuda', dtype=torch.bfloat16):\n"
        "    c = torch.amp.autocast('cuda', dtype=torch.float16)\n"
        "    with torch.amp.autocast('cuda', enabled=False):\n        pass\n",
    ),
    (
        "import torch\ntorch.set_autocast_dtype('cuda', torch.bfloat16)\n"
        "c = torch.cuda.amp.autocast(True)\ntorch.set_autocast_dtype('cuda', torch.float16)\n",
        "import torch\ntorch.set_autocast_dtype('cuda', torch.bfloat16)\n"
        "c = torch.amp.autocast('cuda', dtype=torch.float16, enabled=True)\n"
        "torch.set_autocast_dtype('cuda', torch.float16)\n",
    ),
    (  # another device's dtype does not matter
        "import torch\nwith torch.autocast('cpu', dtype=torch.float16):\n"
        "    c = torch.cuda.amp.autocast()\n",
        "import torch\nwith torch.autocast('cpu', dtype=torch.float16):\n"
        "    c = torch.amp.autocast('cuda')\n",
    ),
]

PARTIALS = [
    (
        "from functools import partial\nimport torch\n"
        "cast = partial(torch.cuda.amp.autocast, False)\nwith cast():\n    pass\n",
        "from functools import partial\nimport torch\n"
        'cast = partial(torch.amp.autocast, "cuda", enabled=False)\nwith cast():\n    pass\n',
    ),
    (
        "import functools\nfrom torch.cuda.amp import GradScaler\n"
        "make = functools.partial(GradScaler, init_scale=2.0)\nmake()\n",
        "import functools\nfrom torch.amp import GradScaler\n"
        'make = functools.partial(GradScaler, "cuda", init_scale=2.0)\nmake()\n',
    ),
]

F_STRINGS = [  # before Python 3.12 an f-string's own marks may not stand inside it
    (
        'import torch\nx = f"in {torch.get_autocast_gpu_dtype()}"\n',
        "import torch\nx = f\"in {torch.get_autocast_dtype('cuda')}\"\n",
    ),
    (
        "import torch\nx = (f'a'\n     f'''b\n{torch.is_autocast_cpu_enabled()!r:>9}''')\n",
        "import torch\nx = (f'a'\n     f'''b\n{torch.is_autocast_enabled(\"cpu\")!r:>9}''')\n",
    ),
]

HANDED_ON = [  # to a name of the function that is called by keywords or bare: nobody sees the partial
    (
        "import contextlib\nimport torch\ndef f(on):\n"
        "    region = torch.cuda.amp.autocast if on else contextlib.nullcontext\n"
        "    with region():\n        return torch.is_autocast_enabled()\nx = f(False)\n",
        "import contextlib\nimport functools\nimport torch\ndef f(on):\n    region = "
        'functools.partial(torch.amp.autocast, "cuda") if on else contextlib.nullcontext\n'
        "    with region():\n        return torch.is_autocast_enabled()\nx = f(False)\n",
    ),
    (
        "from torch.cuda.amp import GradScaler\ndef make(own):\n"
        "    kind = dict if own else GradScaler\n    return kind(init_scale=2.0)\n"
        "s = make(False)\n",
        "from torch.amp import GradScaler\ndef make(own):\n"
        "    kind = dict if own else GradScaler\n    return kind(init_scale=2.0)\n"
        "s = make(False)\n",
    ),
]

IDIOMS = [
    *TORCHFIX_BREAKS,
    *CALLS,
    *DECORATORS,
    *IMPORTS,
    *TYPES,
    *DTYPES,
    *PARTIALS,
    *F_STRINGS,
    *HANDED_ON,
]

DOUBTFUL = [
    (  # imported here and not used: another file may import it from here
        "import torch\nfrom torch.cuda.amp import GradScaler\n",
        "import torch\nfrom torch.amp import GradScaler\n",
    ),
    (
        "import functools\nfrom contextlib import nullcontext\n"
        "from torch.cuda.amp import autocast\n"
        "cast = autocast if len('a') else nullcontext\nwith cast():\n    pass\n",
        "import functools\nfrom contextlib import nullcontext\nfrom torch.amp import autocast\n"
        "cast = functools.partial(autocast, 'cuda') if len('a') else nullcontext\n"
        "with cast():\n    pass\n",
    ),
    (
        "import math\nimport torch\ndef train(region=torch.cuda.amp.autocast):\n"
        "    with region():\n        pass\ntrain()\n",
        "import functools\nimport math\nimport torch\n"
        'def train(region=functools.partial(torch.amp.autocast, "cuda")):\n'
        "    with region():\n        pass\ntrain()\n",
    ),
    (
        "import torch\nfrom torch.cuda.amp import *\nwith autocast():\n    s = GradScaler(2.0)\n",
        "import torch\nfrom torch.amp import GradScaler, autocast\n"
        'with autocast("cuda"):\n    s = GradScaler("cuda", init_scale=2.0)\n',
    ),
    (
        "import torch\nHOOKS = {torch.cuda.amp.GradScaler: print}\n",
        "import torch\nHOOKS = {torch.amp.GradScaler: print}\n",
    ),
    (
        "from torch.cuda.amp import GradScaler\nclass Mine(GradScaler):\n"
        "    def __init__(self):\n        super().__init__(init_scale=2.0)\nMine()\n",
        "from torch.amp import GradScaler\nclass Mine(GradScaler):\n"
        "    def __init__(self):\n        super().__init__(init_scale=2.0)\nMine()\n",
    ),
]


@pytest.mark.parametrize(("before", "after"), IDIOMS)
def test_rewrites(before: str, after: str) -> None:
    assert fixed(before) == after


@pytest.mark.parametrize(("before", "after"), DOUBTFUL)
def test_rewrites_that_another_file_may_notice_are_unsafe(before: str, after: str) -> None:
    assert fixed(before, Safety.UNSAFE) == after


@pytest.mark.parametrize(("before", "after"), [*IDIOMS, *DOUBTFUL])
def test_the_rewritten_code_runs_without_a_deprecation(before: str, after: str) -> None:
    pytest.importorskip("torch", minversion="2.4")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = _run(before)
        warnings.simplefilter("error", FutureWarning)
        warnings.simplefilter("error", DeprecationWarning)
        new = _run(after)
    assert new == old


def _run(text: str) -> dict[str, object]:
    """Execute `text` and describe the regions, scalers and plain values that it leaves behind."""
    space: dict[str, object] = {}
    exec(compile(text, "train.py", "exec"), space)
    described = {name: _described(value) for name, value in space.items()}
    return {name: value for name, value in described.items() if value is not None}


def _described(value: object) -> object:
    import torch

    if isinstance(value, torch.autocast):
        state = (value.device, value.fast_dtype, value._enabled, value._cache_enabled)
        return ("autocast", state)
    if isinstance(value, torch.amp.GradScaler):
        return ("GradScaler", value._device, value.state_dict())
    return value if isinstance(value, bool | str | torch.dtype) else None


NOT_REPORTED = {
    "modern code": """
        import torch
        from torch.amp import autocast, GradScaler
        scaler = GradScaler("cuda")
        with autocast("cuda"), torch.autocast("cuda"):
            torch.is_autocast_enabled()
    """,
    "names of our own": """
        import torch
        class GradScaler: ...
        def autocast(): ...
        with autocast():
            GradScaler()
        class amp:
            cuda = amp = None
        amp.cuda.amp.autocast()
    """,
    "only words": '''
        """Uses torch.cuda.amp.autocast() and torch.cuda.amp.GradScaler."""
        import torch  # torch.cuda.amp.autocast()
        name = "torch.cuda.amp.GradScaler"
    ''',
    "a module that is imported and not used": "import torch.cuda.amp\nfrom torch.cuda import amp\n",
    "what is not deprecated there": """
        from torch.cuda.amp.common import amp_definitely_not_available
        amp_definitely_not_available()
    """,
    "new first, old where it is missing": """
        try:
            from torch.amp import GradScaler
        except ImportError:
            from torch.cuda.amp import GradScaler
        GradScaler()
    """,
    "no AMP in very old torch": """
        try:
            from torch.cuda.amp import autocast
        except ImportError:
            class autocast: ...
        with autocast():
            pass
    """,
    "a flag from an import": """
        import torch
        try:
            from torch.amp import GradScaler
            NEW = True
        except ImportError:
            NEW = False
        scaler = GradScaler("cuda") if NEW else torch.cuda.amp.GradScaler()
    """,
    "an attribute that may be missing": """
        import torch
        try:
            scaler = torch.amp.GradScaler("cuda")
        except AttributeError:
            scaler = torch.cuda.amp.GradScaler()
    """,
    "hasattr": """
        import torch
        if hasattr(torch.amp, "GradScaler"):
            scaler = torch.amp.GradScaler("cuda")
        else:
            scaler = torch.cuda.amp.GradScaler()
    """,
    "hasattr and return": """
        import torch
        def make():
            if hasattr(torch.amp, "GradScaler"):
                return torch.amp.GradScaler("cuda")
            return torch.cuda.amp.GradScaler()
    """,
    "getattr with the old one as default": """
        import torch
        GradScaler = getattr(torch.amp, "GradScaler", torch.cuda.amp.GradScaler)
    """,
    "a version check": """
        import torch
        from packaging import version
        if version.parse(torch.__version__) >= version.parse("2.4"):
            from torch.amp import custom_fwd
        else:
            from torch.cuda.amp import custom_fwd
        @custom_fwd
        def f(ctx): ...
    """,
    "a version flag": """
        import torch
        RECENT = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 4)
        cast = torch.amp.autocast("cuda") if RECENT else torch.cuda.amp.autocast()
    """,
    "a version flag of another file": """
        import torch
        from mine import TORCH_2_4, is_torch_version
        if TORCH_2_4:
            pass
        else:
            torch.cuda.amp.GradScaler()
        if not is_torch_version(">=", "2.3"):
            torch.cuda.amp.GradScaler()
    """,
}


@pytest.mark.parametrize("text", NOT_REPORTED.values(), ids=NOT_REPORTED.keys())
def test_not_reported(text: str) -> None:
    assert checked(dedent(text)) is None


REPORTED = {
    "a question about the device": """
        import torch
        if torch.cuda.is_available() and torch.version.cuda:
            torch.cuda.amp.GradScaler()
    """,
    "a question about another device": """
        import torch
        if hasattr(torch, "xpu") and torch.xpu.is_available():
            pass
        else:
            torch.cuda.amp.GradScaler()
    """,
    "a question about the trainer": """
        import torch
        if hasattr(self, "scaler") and opt1 and self.args.version == 2:
            torch.cuda.amp.GradScaler()
    """,
    "a try around the training": """
        import torch
        try:
            with torch.cuda.amp.autocast():
                train()
        except RuntimeError:
            raise
        except Exception:
            pass
    """,
    "a floor that the script demands": """
        import torch
        if torch.__version__ < "1.6":
            raise RuntimeError("too old")
        scaler = torch.cuda.amp.GradScaler()
    """,
    "an optional torch": """
        try:
            import torch
        except ImportError:
            torch = None
        def f():
            return torch.cuda.amp.GradScaler()
    """,
    "an import for annotations": """
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from torch.cuda.amp import GradScaler
        def f(scaler: "GradScaler"): ...
    """,
    "one road with, one without AMP": """
        import torch
        scaler = torch.cuda.amp.GradScaler() if args.amp else None
    """,
}


@pytest.mark.parametrize("text", REPORTED.values(), ids=REPORTED.keys())
def test_conditions_on_something_else_change_nothing(text: str) -> None:
    fixed(dedent(text))


UNREPAIRED = {
    "other files import it from here": """
        from torch.cuda.amp import autocast
        __all__ = ["autocast"]
    """,
    "the same name means something else": """
        from contextlib import suppress
        if flag:
            from torch.cuda.amp import autocast
        else:
            autocast = suppress
        with autocast():
            pass
    """,
    "passed on as a value": """
        import torch
        if kind is torch.cuda.amp.autocast:
            pass
    """,
    "it is passed on as a value": """
        import torch
        class Trainer:  # as an attribute of a class, a partial may become a method
            region = torch.cuda.amp.autocast
    """,
    "with both quotation marks": """
        import torch
        print(f'{state["a"]}: {torch.get_autocast_gpu_dtype()}')
    """,
    "a starred expression": "import torch\ntorch.cuda.amp.autocast(*args)\n",
    "has no modern spelling": "import torch\n@torch.cuda.amp.autocast\ndef f(): ...\n",
    "a class derives": "import torch\nclass Mine(torch.cuda.amp.GradScaler): ...\nMine(2.0)\n",
    "constructor is called by name": """
        import torch
        torch.cuda.amp.GradScaler.__init__(x, 2.0)
    """,
    "first argument is a text": "import torch\ntorch.cuda.amp.autocast('cpu')\n",
    "more arguments than the old API takes": "import torch\ntorch.cuda.amp.autocast(1, 2, 3, 4)\n",
    "in an unusual way": """
        import functools, torch
        a, b = torch.cuda.amp.autocast, 1
        a()
    """,
}


@pytest.mark.parametrize(("reason", "text"), UNREPAIRED.items(), ids=UNREPAIRED.keys())
def test_what_cannot_be_rewritten_is_reported_with_the_reason(reason: str, text: str) -> None:
    found = checked(dedent(text))
    assert found is not None
    problem, fix = found
    assert fix is None
    assert reason in problem.consequence


def test_a_package_that_hands_the_names_on_is_not_rewritten() -> None:
    found = checked("from torch.cuda.amp import GradScaler\nGradScaler()\n", "pkg/__init__.py")
    assert found is not None and found[1] is None


def test_the_first_use_is_reported_and_the_others_are_related() -> None:
    text = "import torch\n" + "torch.cuda.amp.autocast()\n" * 12
    found = checked(text)
    assert found is not None
    problem, fix = found
    assert (problem.span.start.row, problem.span.start.column) == (2, 1)
    assert problem.span.end.column == len("torch.cuda.amp.autocast") + 1
    assert [each.span.start.row for each in problem.related] == list(range(3, 11))
    assert problem.message == (
        'torch.cuda.amp.autocast is deprecated since torch 2.4; write torch.amp.autocast("cuda")'
    )
    assert fix is not None and len(fix.edits) == 24


def test_an_import_is_a_use() -> None:
    found = checked("import os\nfrom torch.cuda.amp import (\n    GradScaler,\n)\nGradScaler()\n")
    assert found is not None
    assert found[0].span.start.row == 2
    assert [each.span.start.row for each in found[0].related] == [5]


def test_the_article() -> None:
    text = ARTICLE.read_text(encoding="utf-8")
    found = checked(text)
    assert found is not None
    rows = [found[0].span, *(each.span for each in found[0].related)]
    assert [text.splitlines()[span.start.row - 1].strip() for span in rows] == [
        "policy = torch.cuda.amp.GradScaler()",
        "with torch.cuda.amp.autocast():",
    ]
    new = fixed(text)
    assert "policy = torch.amp.GradScaler(" in new and "with torch.amp.autocast(" in new


@pytest.mark.parametrize(("before", "after"), [*IDIOMS, *DOUBTFUL])
@pytest.mark.parametrize("newline", ["\r\n", "\n"])
def test_lines_without_a_use_stay_byte_for_byte(before: str, after: str, newline: str) -> None:
    decoy = "\tüber = 1  # torch.cuda.amp.autocast, 日本\n"
    text = ("if 1:\n" + decoy + before + "if 1:\n" + decoy).replace("\n", newline).rstrip("\r\n")
    found = checked(text)
    assert found is not None and found[1] is not None
    new, _ = apply(text, [found[1]])
    assert new == text.replace(before.replace("\n", newline), after.replace("\n", newline))


def test_a_floor_decides_what_is_deprecated(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    script = tmp_path / "train.py"
    text = "from torch.cuda.amp import autocast, GradScaler\nwith autocast():\n    GradScaler()\n"

    def found(folder: str, requirement: str) -> tuple[Problem, Fix | None] | None:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "requirements.txt").write_text(requirement, encoding="utf-8")
        return checked(text, str(script.parent / folder / script.name))

    assert found("old", "torch>=1.7\n") is None
    assert found("pinned", "torch==2.1.0+cu118\n") is None
    between = found("between", "numpy\ntorch>=2.0  # or newer\n")
    assert between is not None and between[1] is not None
    assert apply(text, [between[1]])[0] == (
        "from torch.cuda.amp import GradScaler\nfrom torch.amp import autocast\n"
        'with autocast("cuda"):\n    GradScaler()\n'
    )
    for folder, requirement in (("new", "torch>=2.4"), ("any", "torch"), ("none", "numpy")):
        answer = found(folder, requirement)
        assert answer is not None and answer[1] is not None
        assert 'GradScaler("cuda")' in apply(text, [answer[1]])[0]


def test_the_command_line_decides_over_the_requirements(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("torch==1.8.0\n", encoding="utf-8")
    script = tmp_path / "train.py"
    text = "from torch.cuda.amp import autocast, GradScaler\nwith autocast():\n    GradScaler()\n"
    script.write_text(text, encoding="utf-8")

    def repaired(target: tuple[int, int] | None) -> str:
        return fix_text(text, str(script), unsafe=False, target=Target(torch=target))

    assert repaired(None) == text
    assert repaired((1, 10)) == text  # torch.autocast is there, torch.amp is not
    assert repaired((2, 1)) == (
        "from torch.cuda.amp import GradScaler\nfrom torch.amp import autocast\n"
        'with autocast("cuda"):\n    GradScaler()\n'
    )
    assert repaired((2, 4)) == (
        'from torch.amp import autocast, GradScaler\nwith autocast("cuda"):\n    GradScaler("cuda")\n'
    )
    program = CliRunner()
    for arguments, code in (([], 0), (["--target-torch", "2.3"], 1)):
        assert program.invoke(main, ["check", str(script), *arguments]).exit_code == code


def test_torch_may_come_by_a_star_import_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text("import torch\nimport os\n", encoding="utf-8")
    (tmp_path / "own.py").write_text("class torch: ...\n", encoding="utf-8")
    (tmp_path / "passes.py").write_text("from tool import *\n", encoding="utf-8")
    (tmp_path / "hides.py").write_text("import torch\n__all__ = ['f']\n", encoding="utf-8")
    rest = "with torch.cuda.amp.autocast():\n    pass\n"
    for source, seen in (("tool", 1), ("passes", 1), ("own", 0), ("hides", 0), ("gone", 0)):
        text = f"from {source} import *\n{rest}"
        found = checked(text, str(tmp_path / "train.py"))
        assert (found is not None) == bool(seen), source
        if found is not None and found[1] is not None:
            assert 'torch.amp.autocast("cuda")' in apply(text, [found[1]])[0]
