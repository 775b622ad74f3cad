"""Every page of the catalogue: its form, and that its examples do what the page says of them.

The quick half needs no framework. The slow half runs the examples: what a fix makes of `## Bad` is
`## Good` byte for byte, so running Good is running the fixed script.
"""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

import mpaudit
from mpaudit.audit import check_text, fix_text
from mpaudit.config import Selection
from mpaudit.explain import by_message
from mpaudit.finding import Finding
from mpaudit.fix import Safety
from mpaudit.rule import Rule, Severity, catalogue, pages, parse
from mpaudit.runtime.trace import Reader

RULES = tuple(catalogue().values())
SOURCE = tuple(rule for rule in RULES if "source" in rule.seen_by)
FIXED = tuple(rule for rule in SOURCE if rule.fix in ("safe", "unsafe"))
UNFIXED = tuple(rule for rule in SOURCE if rule.fix in ("none", "suggestion"))
RUN_ONLY = tuple(rule for rule in RULES if rule.seen_by == ("run",))
SEEN_IN_A_RUN = tuple(rule for rule in RULES if "run" in rule.seen_by)
EXPLAINED = tuple(rule for rule in RULES if rule.messages)

# The families of codes, by their first digit; the ninth is what only a run can see.
FAMILIES = "0123456789"
# What stands on torch, and is not among mpaudit's own requirements: examples run where it is installed.
LIBRARIES = ("accelerate", "deepspeed", "lightning", "transformers")
# On a machine without CUDA the repaired script says so too: that is what the page explains.
SAYS_SO_REPAIRED = "autocast-device-mismatch"
# Only kernels of CUDA say so: elsewhere Bad runs through.
SAID_BY_CUDA = (
    "bce-under-autocast",
    "accelerate-raw-backward",
    "accelerate-clip-mid-accumulation",
    "half-checkpoint-with-fp16",
)
# A run sees it only if it is asked to compare itself with float32.
ASKED = {"diverges-from-float32": ("--reference", "60")}
# Keras 3, which runs the example, says nothing; Keras 2 does (tests/test_keras_messages.py).
SAID_BY_KERAS_2 = ("double-loss-scaling",)
SILENT = ("deepspeed-raw-backward",)
"""Rules whose page explains errors, and whose example is the case in which there is none."""


def each(rules: Iterable[Rule]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("rule", rules, ids=lambda rule: rule.name)


def example(rule: Rule, title: str) -> str:
    code = rule.example(title)
    assert code is not None, f"{rule.name}.md has no `## {title}` with a code block"
    return code


def findings_in(rule: Rule, title: str) -> list[Finding]:
    """What a check finds in an example; a rule that is off by default is selected."""
    selection = Selection() if rule.default else Selection(select=(rule.name,))
    return check_text(example(rule, title), f"{rule.name}.py", selection)


def marked_rows(rule: Rule) -> set[int]:
    code = rule.example("Bad", marked=True) or ""
    return {row for row, line in enumerate(code.splitlines(), 1) if re.search(r"# error\b", line)}


# --- the form of a page ---------------------------------------------------------------------------


def test_names_are_file_names_and_codes_are_unique():
    files = {page.name for page in pages().iterdir()}
    assert files == {f"{rule.name}.md" for rule in RULES}
    codes = [rule.code for rule in RULES]
    assert len(set(codes)) == len(codes)
    assert codes == sorted(codes)


@each(RULES)
def test_the_toml_block(rule: Rule):
    assert rule.code[2] in FAMILIES
    assert (rule.code[2] == "9") == (rule.seen_by == ("run",))
    assert rule.code[2] != "8" or rule.severity is Severity.ADVICE
    assert rule.seen_by in (("source",), ("run",), ("source", "run"))
    assert rule.fix in ("none", "safe", "unsafe", "suggestion")
    assert set(rule.frameworks) <= {"torch", "keras", *LIBRARIES}
    assert not set(rule.frameworks) & set(LIBRARIES) or "torch" in rule.frameworks
    assert rule.frameworks or rule.code.startswith("MP0")
    assert re.fullmatch(r"\d+\.\d+\.\d+", rule.since)
    assert len(set(rule.messages)) == len(rule.messages)
    assert all(message == message.strip() and message for message in rule.messages)


@each(RULES)
def test_the_summary_is_one_plain_line(rule: Rule):
    assert 20 <= len(rule.summary) <= 110
    assert "\n" not in rule.summary
    assert not rule.summary.endswith(".")


@each(RULES)
def test_the_sections(rule: Rule):
    titles = re.findall(r"^## (.+)$", rule.page, re.MULTILINE)
    safety = ["Fix safety"] if rule.fix == "unsafe" else []
    assert titles == ["Bad", "Good", *safety, "Sources"]
    assert "**How to tell.**" in rule.prose
    assert "**When to ignore.**" in rule.prose
    assert "https://" in (rule.section("Sources") or "")
    assert len((rule.section("Fix safety") or "x" * 80).strip()) >= 80


@each(RULES)
def test_the_examples_are_python_and_differ(rule: Rule):
    bad, good = example(rule, "Bad"), example(rule, "Good")
    assert bad != good
    assert "# error" not in good
    compile(good, f"{rule.name}-good.py", "exec")
    if rule.name == "unparsable-source":
        with pytest.raises(SyntaxError):
            compile(bad, f"{rule.name}-bad.py", "exec")
    else:
        compile(bad, f"{rule.name}-bad.py", "exec")


@each(RULES)
def test_bad_is_marked(rule: Rule):
    assert marked_rows(rule)


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        ("no title", "a page starts with"),
        ("# some-rule (MP999)\n\nprose, but no toml block\n", "a page starts with"),
        ("# some-rule (MP999)\n```toml\nsummary = 'x'\n```\n", "lacks 'severity'"),
        ("# some-rule (MP999)\n```toml\ncolour = 'x'\n```\n", "unknown key 'colour'"),
    ],
)
def test_a_page_that_breaks_the_form_says_where(page: str, problem: str):
    with pytest.raises(ValueError, match=re.escape(problem)) as raised:
        parse(page, origin="some-rule.md")
    assert str(raised.value).startswith("some-rule.md: ")


# --- what the static half makes of the examples ---------------------------------------------------


@each(SOURCE)
def test_bad_fires_where_it_is_marked_and_nowhere_else(rule: Rule):
    findings = findings_in(rule, "Bad")
    expected = {(rule.name, row) for row in marked_rows(rule)}
    assert {(finding.name, finding.span.start.row) for finding in findings} == expected
    assert len(findings) == len(expected)


@each(SOURCE)
def test_a_finding_is_stamped_with_what_the_page_says(rule: Rule):
    for finding in findings_in(rule, "Bad"):
        assert (finding.code, finding.severity) == (rule.code, rule.severity)
        assert finding.message
        assert not finding.confirmed


@each(RUN_ONLY)
def test_only_a_run_can_see_it(rule: Rule):
    assert check_text(example(rule, "Bad"), f"{rule.name}.py") == []


@each(RULES)
def test_good_is_silent(rule: Rule):
    assert findings_in(rule, "Good") == []


@each(FIXED)
def test_the_fix_turns_bad_into_good(rule: Rule):
    bad, name = example(rule, "Bad"), f"{rule.name}.py"
    assert fix_text(bad, name, unsafe=True) == example(rule, "Good")
    assert fix_text(bad, name, unsafe=True, names={rule.name}) == example(rule, "Good")


@each(FIXED)
def test_a_fix_is_as_safe_as_the_page_says(rule: Rule):
    bad, name = example(rule, "Bad"), f"{rule.name}.py"
    safety = Safety.SAFE if rule.fix == "safe" else Safety.UNSAFE
    found = [finding.fix for finding in check_text(bad, name) if finding.name == rule.name]
    assert [fix and fix.safety for fix in found] == [safety] * len(found)
    without_unsafe = fix_text(bad, name, unsafe=False)
    assert without_unsafe == (example(rule, "Good") if rule.fix == "safe" else bad)


@each(FIXED)
def test_a_fix_keeps_to_its_rule_and_its_line_ends(rule: Rule):
    bad, good, name = example(rule, "Bad"), example(rule, "Good"), f"{rule.name}.py"
    assert fix_text(bad, name, unsafe=True, names={"unparsable-source"}) == bad
    dos = fix_text(bad.replace("\n", "\r\n"), name, unsafe=True)
    assert dos == good.replace("\n", "\r\n")


@each(FIXED)
def test_fixing_twice_changes_nothing_more(rule: Rule):
    good = example(rule, "Good")
    assert fix_text(good, f"{rule.name}.py", unsafe=True) == good


@each(UNFIXED)
def test_what_has_no_fix_is_left_alone(rule: Rule):
    bad, name = example(rule, "Bad"), f"{rule.name}.py"
    assert fix_text(bad, name, unsafe=True) == bad
    for finding in findings_in(rule, "Bad"):
        assert finding.fix is None or (
            rule.fix == "suggestion" and finding.fix.safety is Safety.SUGGESTION
        )


# --- the examples, run ----------------------------------------------------------------------------


def run_example(
    rule: Rule, title: str, folder: Path, launcher: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run an example, by `launcher` if given; skips the test where a framework is missing."""
    code = example(rule, title)
    names = "|".join(("torch", "tensorflow", "keras", "tf_keras", *LIBRARIES))
    needed = set(re.findall(rf"^(?:import|from) ({names})\b", code, re.MULTILINE))
    missing = sorted(each for each in needed if importlib.util.find_spec(each) is None)
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    script = folder / f"{title.lower()}.py"
    script.write_text(code, encoding="utf-8")
    paths = (str(Path(mpaudit.__file__).parents[1]), os.environ.get("PYTHONPATH", ""))
    extra = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    if "deepspeed" in needed:  # as torchrun starts one process
        with socket.create_server(("localhost", 0)) as free:
            port = free.getsockname()[1]
        extra |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        extra |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    done = subprocess.run(
        [sys.executable, "-W", "always", *launcher, str(script)],
        cwd=folder,
        env={**os.environ, **extra},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if "Type fp16 is not supported on your device" in done.stderr:
        pytest.skip("DeepSpeed wants a GPU for float16")
    return done


@pytest.mark.slow
@each(RULES)
def test_good_trains(rule: Rule, tmp_path: Path):
    done = run_example(rule, "Good", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "nan" not in done.stdout
    if rule.name != SAYS_SO_REPAIRED:
        assert not [message for message in rule.messages if message in done.stderr]


@pytest.mark.slow
@each(EXPLAINED)
def test_bad_says_what_the_page_explains(rule: Rule, tmp_path: Path):
    if rule.name == SAYS_SO_REPAIRED and _has_cuda():
        pytest.skip("the warnings are those of a machine without CUDA")
    if rule.name in SAID_BY_CUDA and not _has_cuda():
        pytest.skip("only kernels of CUDA raise this error")
    if rule.name in SAID_BY_KERAS_2:
        pytest.skip("only Keras 2 raises this error")
    if rule.name in SILENT:
        pytest.skip("the example is the case in which nothing is said")
    done = run_example(rule, "Bad", tmp_path)
    assert any(message in done.stderr for message in rule.messages), done.stderr[-2000:]


@pytest.mark.slow
def test_every_message_about_torch_is_what_torch_says():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("some of the warnings are those of a machine without CUDA")
    said = _said_by_torch(torch)
    explained = {
        message
        for rule in EXPLAINED
        if rule.frameworks == ("torch",)
        and rule.name != "apex-amp"  # what Python says without apex
        for message in rule.messages
    }
    assert explained <= said, sorted(explained - said)


@each(EXPLAINED)
def test_a_message_leads_to_its_page(rule: Rule):
    for message in rule.messages:
        assert rule in by_message(message)
        assert rule in by_message(f"Traceback (most recent call last):\n  ...\nError: {message}\n")


def test_every_message_of_the_parser_is_what_it_says():
    said = []
    for code in (
        "for x in y:\nprint(x)\n",
        "if x:\n        y\n    z\n",
        "if x:\n        y\n\tz\n",
        "print 'x'\n",
    ):
        with pytest.raises(SyntaxError) as raised:
            compile(code, "x.py", "exec")
        said.append(raised.value.msg)
    for message in catalogue()["unparsable-source"].messages:
        assert any(message in each for each in said), said


@pytest.mark.slow
@each(SEEN_IN_A_RUN)
def test_a_run_sees_it_on_the_same_line(rule: Rule, tmp_path: Path):
    seen = {}
    for title in ("Bad", "Good"):
        trace = tmp_path / f"{title}.mpa"
        options = (*ASKED.get(rule.name, ()), "-o", str(trace))
        done = run_example(rule, title, tmp_path, ("-m", "mpaudit", "run", *options))
        assert trace.exists(), done.stderr[-2000:]
        with Reader(trace) as reader:
            seen[title] = {(each.rule, each.span.start.row) for each in reader.problems()}
    assert {row for name, row in seen["Bad"] if name == rule.name} == marked_rows(rule)
    assert seen["Good"] == set()


def _has_cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def _said_by_torch(torch) -> set[str]:
    """What torch says, as warnings and as errors, when a scaler is misused in each known way."""

    def scaled(backward=True, steps="", unscale_after=False):
        weight = torch.nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        scaler = torch.amp.GradScaler("cpu")
        loss = (weight * 2).sum()
        (scaler.scale(loss) if backward else loss).backward()
        for letter in steps:
            if letter == "s":
                scaler.step(optimizer)
            elif letter == "u":
                scaler.update()
            else:
                scaler.unscale_(optimizer)

    def region():
        with torch.autocast("cuda"):
            pass

    def step_with(gone=False, dtype=None, **closure):
        weight = torch.nn.Parameter(torch.ones(2, dtype=dtype))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        scaler = torch.amp.GradScaler("cpu")
        scaler.scale((weight * 2).sum()).backward()
        if gone:
            optimizer.zero_grad()
        scaler.step(optimizer, **closure)

    def mixed_tf32(switch, word, read):
        before = switch.fp32_precision
        switch.fp32_precision = word
        try:
            read()
        finally:
            switch.fp32_precision = before

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    misuses: list[Callable[[], object]] = [
        lambda: mixed_tf32(matmul, "tf32", lambda: matmul.allow_tf32),
        lambda: mixed_tf32(matmul, "tf32", torch.get_float32_matmul_precision),
        lambda: mixed_tf32(cudnn.conv, "ieee", lambda: cudnn.allow_tf32),
        lambda: torch.ones(2, dtype=torch.bfloat16).numpy(),
        lambda: torch.quantile(torch.ones(2, dtype=torch.half), 0.5),
        *(
            lambda function=function, dtype=dtype: function(torch.eye(2, dtype=dtype))
            for dtype in (torch.float16, torch.bfloat16)
            for function in (
                torch.linalg.inv,
                torch.linalg.slogdet,
                torch.linalg.cholesky,
                torch.linalg.svd,
                torch.linalg.eigh,
                torch.linalg.det,
                torch.linalg.qr,
                torch.fft.fft,
                lambda x: torch.cdist(x, x),
            )
        ),
        lambda: step_with(gone=True),
        lambda: step_with(dtype=torch.half),
        lambda: step_with(closure=lambda: None),
        lambda: scaled(backward=False, steps="s"),
        lambda: scaled(backward=False, steps="-"),
        lambda: scaled(steps="u"),
        lambda: scaled(steps="ss"),
        lambda: scaled(steps="s-"),
        lambda: scaled(steps="--"),
        lambda: torch.amp.GradScaler("cuda"),
        region,
        lambda: torch.cuda.amp.GradScaler(),
        lambda: torch.cuda.amp.autocast(),
        lambda: torch.cuda.amp.custom_fwd(lambda: None),
        lambda: torch.cuda.amp.custom_bwd(lambda: None),
        lambda: torch.cpu.amp.GradScaler(),
        lambda: torch.cpu.amp.autocast(),
        lambda: _traced(torch),
        lambda: torch.amp.custom_fwd(lambda: None),
        lambda: torch.amp.custom_bwd(lambda: None),
        lambda: _half_guarded(torch, torch.amp.custom_fwd, None),
        lambda: _half_guarded(torch, None, torch.amp.custom_bwd),
        lambda: torch.autocast(region),
        lambda: exec("with torch.autocast: pass", {"torch": torch}),
        lambda: torch.autocast(torch.device("cpu")),
        lambda: torch.autocast(True),
        lambda: torch.autocast(enabled=True),
        lambda: torch.autocast(device="cpu"),
        lambda: torch.cuda.amp.autocast(device="cuda"),
        lambda: torch.cuda.amp.autocast(device_type="cuda"),
        lambda: torch.autocast("cpu", True).__enter__(),
        lambda: torch.autocast("cpu", dtype="float16").__enter__(),
        lambda: torch.autocast("cpu", enabled=torch.float16).__enter__(),
        lambda: torch.zeros(2).half().masked_fill(torch.ones(2) > 0, -1e9),
        lambda: torch.zeros(2).index_put((torch.arange(2),), torch.zeros(2).half()),
        lambda: torch.zeros(2).scatter(0, torch.arange(2), torch.zeros(2).half()),
        lambda: torch.ops.aten.binary_cross_entropy.default._op_dk(
            torch._C.DispatchKey.AutocastCUDA, torch.ones(2), torch.ones(2), None, 1
        ),
    ]
    said: set[str] = set()
    for misuse in misuses:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                misuse()
            except (AssertionError, RuntimeError, TypeError, ValueError) as error:
                said.add(str(error))
        said.update(str(warning.message) for warning in caught)
    return said


def _half_guarded(torch, forward, backward) -> None:
    """A product whose forward or backward pass lacks its guard; the error without the class' name."""

    def guarded(method, guard):
        return staticmethod(guard(method, device_type="cpu") if guard else method)

    def multiply(ctx, left, right):
        ctx.save_for_backward(left, right)
        return left @ right

    def back(ctx, gradient):
        left, right = ctx.saved_tensors
        return gradient @ right.t(), left.t() @ gradient

    methods = {"forward": guarded(multiply, forward), "backward": guarded(back, backward)}
    product = type("Product", (torch.autograd.Function,), methods)
    left = torch.ones(2, 2, requires_grad=True)
    with torch.autocast("cpu"):
        loss = product.apply(left, torch.ones(2, 2)).sum()
    try:
        loss.backward()
    except AttributeError as error:
        raise RuntimeError(str(error).partition("' ")[2]) from None


def _traced(torch) -> None:
    """A trace in a region that keeps its casts; the error without the tensor that it shows."""
    with torch.autocast("cpu"):
        try:
            torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
        except RuntimeError as error:
            raise RuntimeError(str(error).partition("\n")[0]) from None
