"""Every fix is proven by a run: of the fixtures, and of mutants of correct scripts.

A repaired script runs through, or ends as it did for a reason that is named below, and it changes its
parameters by as much as in plain float32 without a loss scale. A repaired mutant is the correct script
again, or comes to the same parameters.
"""

from __future__ import annotations

import ast
import difflib
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mpaudit.audit import check_text, fix_text
from mpaudit.rule import catalogue
from tests.accuracy.bench import Original, program_of
from tests.accuracy.mutation import Mutant, mutants
from tests.executed import Arithmetic, End, Executor

FIXTURES = Path(__file__).parents[1] / "fixtures"
SCRIPTS = sorted((FIXTURES / "scripts").glob("*.py"))
CLEAN = sorted((FIXTURES / "clean").glob("*.py"))
EXCUSES = {
    r"No module named '(apex|deepspeed|fastai|ignite|mmengine|pandas|peft|sklearn|timm|trl)": "not installed",
    r"No module named '(horovod|lion_pytorch|torchvision|tqdm)|DeepSpeed is not installed": "not installed",
    r"No module named 'diffusers|No package metadata was found for The 'deepspeed": "not installed",
    r"No module named '(acme|gradient_exchange|gradients|hooks|lowbit)'": "a library that is made up",
    r"No module named '(schedules|sharding|some_library|synth)'": "a library that is made up",
    r"No module named '(deepxde|pydantic_settings|yacs)'": "not installed",
    r"name 'loader' is not defined": "it shows a piece of a loop only",
    r"have NCCL built in": "its own processes talk by NCCL",
    r"AcceleratorState has already been initialized": "it shows several programs in one",
    r"Please provide a TPU Name": "it needs a TPU",
    r"No module named 'pytorch_lightning\.lite'": "it is for Lightning 1",
    r"module 'tensorflow' has no attribute": "it is for TensorFlow 1",
    r"Unrecognized keyword arguments passed to Model": "it is for the first Keras",
    r"dummy base class CUDAGraph|CUDA graphs|libcuda|NVIDIA driver": "it needs a GPU",
    r"No such file or directory|FileNotFoundError|num_samples should be": "its data are not here",
    r"URL fetch failure": "it loads weights from the net",
    r"IndexError: list index out of range": "it needs arguments",
}
"""Why a script cannot run here, by what its error says; before the fix and after it."""
ONLY = {
    "a library that is made up": """apex_kernels_only half_parameters_unseen_class half_unseen_class
        lightning_1_trainer lightning_precision_flag lightning_precision_settings
        lightning_precision_words own_experimental_policy parts_sharded_out_of_sight
        precision_of_other_trainers property_asks_for_the_scaler scaler_of_an_initialised_model
        scaler_saved_by_others schedule_holds_the_optimizer step_of_gradients_put_in_by_hand
        tf32_left_off_legacy update_in_exchange update_missing_reduced_elsewhere""",
    "it is for Lightning 1": "scaler_not_saved_by_a_trainer",
    "it needs arguments": "deepspeed_config_switched_later device_from_config_in_bfloat16",
    "it shows a piece of a loop only": """silenced_lines silenced_range_and_file
        unused_suppression_line unused_suppression_list unused_suppression_range""",
    "it shows several programs in one": """accelerate_autocast_regions
        accelerate_norm_of_unscaled_gradients accelerate_raw_clip_in_one_of_two_runs
        precision_flags_one_of_two""",
    "its data are not here": """half_checkpoint_adapters half_checkpoint_chosen
        half_checkpoint_for_bfloat16 half_predictions_saved half_predictions_scored
        keras_float16_inference keras_half_predictions_converted keras_predictions_mixed_with_floats
        option_set_by_a_function""",
    "its own processes talk by NCCL": "distributed_spawn",
}
"""The scripts for which alone such a reason holds: others may say the same by a mistake of a fix."""
OTHERWISE = {
    "bfloat16_with_scaler": "what is put in stays: bfloat16, in which each product is rounded otherwise",
    "bfloat16_instead": "what is put in stays: bfloat16, in which each product is rounded otherwise",
    "clip_added": "what is put in stays: a clip, now of the true gradients",
    "masked_by_where": "what is put in stays: a softmax of the values that the mask leaves",
    "clipped_at_the_tape": "what is put in stays: a clip, now by the optimizer",
}
"""Operators after whose repair the correct script is another one: it has to run, with finite numbers."""
FIXABLE = {
    name: rule
    for name, rule in catalogue().items()
    if "source" in rule.seen_by and rule.fix in ("safe", "unsafe") and rule.default
}
NEAR = 1.1
"""Up to which factor the sizes of two changes differ by rounding; a forgotten scale makes it 65536."""
SKIPPED = 3.0
"""The same beside training in plain float32, in which no step overflows and is skipped."""
Proven = Callable[[str, str], None]
"""Notes, for what a fix was applied to, how it was proven; the run says how often at its end."""

pytestmark = pytest.mark.slow


@functools.cache
def executor(framework: str, arithmetic: Arithmetic) -> Executor:
    """One process for each framework, which lives as long as the tests."""
    pytest.importorskip("tensorflow" if framework == "keras" else "torch")
    return Executor(framework, arithmetic)


def run(text: str, path: Path, arithmetic: Arithmetic = "as written") -> End:
    """How a script ends."""
    keras = re.search(r"^\s*(?:import|from) (?:keras|tensorflow|tf_keras)\b", text, re.MULTILINE)
    return executor("keras" if keras else "torch", arithmetic).run(text, path)


@pytest.fixture
def proven(record_property: Callable[[str, object], None]) -> Proven:
    """What one test says of its proofs (see conftest.py)."""
    return lambda what, how: record_property("proven", f"{what}: {how}")


def reason(error: str, path: Path) -> str:
    """Why a script that ends with an error cannot run here, or ""."""
    for pattern, why in EXCUSES.items():
        if re.search(pattern, error) and path.stem in ONLY.get(why, path.stem).split():
            return why
    return ""


def test_only_fixtures_are_excused_by_name() -> None:
    named = {each for scripts in ONLY.values() for each in scripts.split()}
    assert named <= {path.stem for path in (*SCRIPTS, *CLEAN)}
    assert ONLY.keys() <= set(EXCUSES.values())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_repaired_fixture_runs(path: Path, proven: Proven) -> None:
    text = path.read_text(encoding="utf-8")
    fixed = fix_text(text, str(path), unsafe=True)
    if fixed == text:
        return  # nothing to prove: what is only shown changes nothing
    after = run(fixed, path)
    if why := reason(after.error, path):
        assert run(text, path).error  # it is no fix that stops it
        proven("fixtures", f"not run: {why}")
        return
    left = is_left(fixed, path)
    if after.error and left and run(text, path).error:
        proven("fixtures", "ends as before, by what has no fix")
        return
    assert after.error == ""
    assert after.finite
    if left:
        proven("fixtures", "run, with finite numbers: something without a fix is left")
        return
    plain = run(fixed, path, "plain")
    if plain.error or not plain.trained:
        proven("fixtures", "run, with finite numbers: nothing is trained that could be compared")
        return
    assert after.far(plain) < SKIPPED
    proven("fixtures", "run, and changed by as much as by training in plain float32")


def is_left(fixed: str, path: Path) -> bool:
    """Whether something is found still, which has no fix here."""
    return bool(check_text(fixed, str(path)))


def repaired(path: Path) -> Iterator[tuple[Mutant, str]]:
    """The mutants of a correct script that a fix changes, and what becomes of them."""
    for mutant in mutants(program_of(Original(path.stem, path)), FIXABLE):
        fixed = fix_text(mutant.text, str(path), unsafe=True)
        if fixed != mutant.text:
            yield mutant, fixed


def same_program(one: str, other: str) -> bool:
    """Whether two texts are one program: comments, `pass` and `if True:` aside."""
    return ast.dump(_Plain().visit(ast.parse(one))) == ast.dump(_Plain().visit(ast.parse(other)))


class _Plain(ast.NodeTransformer):
    """Takes out what operators leave behind: `pass` beside other statements, and `if True:`."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if not isinstance(block, list):
                continue
            flat = [part for each in block for part in (each.body if _always(each) else [each])]
            setattr(node, name, [e for e in flat if not isinstance(e, ast.Pass)] or flat[:1])
        return node


def _always(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If) and isinstance(node.test, ast.Constant) and node.test.value is True
    )


@pytest.mark.parametrize("path", CLEAN, ids=lambda path: path.stem)
def test_repaired_mutants_are_the_correct_script(path: Path, proven: Proven) -> None:
    text = path.read_text(encoding="utf-8")
    right: End | None = None
    wrong = []
    for mutant, fixed in repaired(path):
        if same_program(fixed, text):
            proven("mutants", "the correct script again")
            continue
        right = right or run(text, path)
        if right.error:
            assert reason(right.error, path), (path.stem, right.error)
            proven("mutants", f"not run: {reason(right.error, path)}")
            continue
        how, fault = proof(mutant, fixed, right, path)
        if fault:
            changed = difflib.unified_diff(text.splitlines(), fixed.splitlines(), n=0, lineterm="")
            wrong.append(
                "\n".join([f"{mutant.operator}, row {mutant.origin_row}: {fault}", *changed])
            )
        else:
            proven("mutants", how)
    assert not wrong, "\n\n".join(wrong)


def proof(mutant: Mutant, fixed: str, right: End, path: Path) -> tuple[str, str]:
    """How a run of a repaired mutant proves the fix, and what speaks against it ("" for nothing)."""
    after = run(fixed, path)
    if after.error and is_left(fixed, path) and run(mutant.text, path).error:
        return "ends as before, by what has no fix", ""
    if after.error or not after.finite:
        return "", after.error or "parameters are not finite"
    if not right.parameters:
        return "run: nothing is trained that could be compared", ""
    if after.like(right):
        return "run, and at the correct script's parameters", ""
    if after.far(right) < NEAR:
        return "run, and changed by as much as the correct script: rounded otherwise", ""
    if mutant.operator in OTHERWISE:
        return f"run, with finite numbers: {OTHERWISE[mutant.operator]}", ""
    exact = run(fixed, path, "float32")
    correct = run(path.read_text(encoding="utf-8"), path, "float32")
    if not exact.error and exact.far(correct) < NEAR:
        return (
            "run, and changed by as much where both compute in float32: other steps overflowed",
            "",
        )
    return "", f"parameters changed {after.far(right):.3g} times as much, or the inverse"
