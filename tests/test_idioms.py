"""How real code is written: each idiom is held by correct scripts, and by scripts with a mistake in it.

The table says which fixtures hold an idiom, and what in their text shows that they do; that correct
ones stay silent and the others raise exactly their marks is what `test_fixtures` checks. The
idioms are those of a survey of 476 files from 52 public repositories, in the order of how common
they are; those of Keras alone are left out.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[1] / "fixtures"

IDIOMS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "dtype chosen at run time, a scaler for one of them": (
        r"enabled=.*float16|is_bf16_supported",
        ("dtype_from_argument", "dtype_from_hardware", "scaler_for_float16_only"),
        (),
    ),
    "two branches on a flag": (
        r"if [\w.]*(amp|fp16)\w*:[\s\S]*else:",
        ("two_branches", "repeated_flag"),
        ("clip_before_unscale_shared_branch",),
    ),
    "a notebook: everything in another cell": (
        r"# In ?\[|# %%|# cell",
        ("notebook_order",),
        ("idiom_notebook_no_update",),
    ),
    "autocast(enabled=expression)": (
        r"autocast\([^)]*enabled=[\w.]+",
        ("enabled_flag",),
        ("bce_autocast_forward",),
    ),
    "the scaler is a parameter": (
        r"def \w+\([^)]*scaler[^)]*\)",
        ("scaler_none_parameter",),
        ("unscaled_step_scaler_parameter",),
    ),
    "the region is held in a variable or an attribute": (
        r"with (self\.)?(ctx|amp|autocast|amp_autocast)(\(\))?:",
        ("inline_conditional", "apex_beside_native"),
        ("bce_autocast_multi_task",),
    ),
    "nullcontext or suppress as off": (
        r"nullcontext|suppress",
        ("nullcontext_on_cpu", "suppress_as_off"),
        ("idiom_inline_conditional_clip",),
    ),
    "a guard for the accumulation": (
        r"% \w*(accum|n|every|steps)\w* ?==",
        ("accumulate_modulo",),
        ("update_before_step_micro_batch",),
    ),
    "the device is a variable": (
        r"autocast\((device_type=)?(self\.)?device",
        ("device_agnostic",),
        ("bce_autocast_trainer",),
    ),
    "bare autocast() or GradScaler() of torch.cuda.amp": (
        r"torch\.cuda\.amp|from torch\.cuda import amp",
        ("version_gate",),
        ("deprecated_amp_from_import",),
    ),
    "GradScaler(enabled=flag) used throughout": (
        r"GradScaler\([^)]*enabled=",
        ("enabled_flag", "disabled_scaler_clip"),
        ("idiom_conditional_with_clip",),
    ),
    "several scalers, losses or optimizers": (
        r"optimizer_?[A-Z\w]|opt_\w|scaler_\w",
        ("gan_one_scaler", "gan_two_scalers"),
        ("missing_update_second_scaler", "bce_autocast_helper"),
    ),
    "is there a scaler at all": (
        r"scaler is not None|if (self\.)?scaler",
        ("scaler_truthiness", "scaler_none_parameter"),
        ("idiom_inline_conditional_clip",),
    ),
    "a nested region that is off": (
        r"enabled=False",
        ("disabled_region", "bce_in_float32"),
        (),
    ),
    "the scaler is an attribute": (
        r"self\.\w*scaler",
        ("scaler_attribute", "scaler_property"),
        ("missing_update_methods",),
    ),
    "the scaler is built conditionally": (
        r"GradScaler\([^)]*\) if \w",
        ("inline_conditional",),
        ("idiom_inline_conditional_clip",),
    ),
    "Accelerate does it all": (r"accelerator\.backward", ("accelerate_loop",), ()),
    "an apex branch beside the native one": (
        r"amp\.scale_loss",
        ("apex_beside_native",),
        ("idiom_apex_beside_native_clip",),
    ),
    "NativeScaler callables": (
        r"class \w*Scaler[\s\S]*def __call__",
        ("native_scaler_callable", "native_scaler_with_norm"),
        ("idiom_native_scaler_clip", "unscaled_step_callable"),
    ),
    "model.half() for inference, an average, a benchmark": (
        r"\.half\(\)",
        ("half_inference", "half_copies", "frozen_half_teacher"),
        ("half_parameters_trainer",),
    ),
    "forward, backward and step in different functions": (
        r"def \w+[\s\S]*def \w+",
        ("trainer_methods_split", "closure_helpers", "static_method_steps"),
        ("missing_update_methods", "unscaled_backward_methods"),
    ),
    "a clip helper": (
        r"def \w*clip|clip_grad",
        ("clip_helper", "clip_helper_unscales"),
        ("clip_before_unscale_helper",),
    ),
    "an autocast factory": (
        r"def \w*(autocast|precision|context|mixed)\w*\(",
        ("autocast_factory", "context_helper"),
        ("idiom_contextmanager_backward",),
    ),
    "helpers made with contextmanager": (
        r"@(contextlib\.)?contextmanager",
        ("conditional_with", "context_helper"),
        ("idiom_contextmanager_backward", "idiom_conditional_with_clip"),
    ),
    "with A if condition else B": (
        r"with .* if \w+ else .*:",
        ("conditional_with",),
        ("idiom_conditional_with_clip",),
    ),
    "the scaled loss is held in a variable": (
        r"= \w*scaler\w*\.scale\(",
        ("scaled_loss_variable", "loss_name_rebound"),
        (),
    ),
    "get_scale() compared, to know of skipped steps": (
        r"get_scale\(\) *[<>=]|[<>=] *\w*scaler\w*\.get_scale\(\)",
        ("skipped_step_detection", "scheduler_follows_applied_steps"),
        ("idiom_skipped_step_no_update",),
    ),
    "functools.partial of autocast": (
        r"partial\((\w+\.)*autocast",
        ("partial_autocast", "apex_beside_native"),
        ("missing_grad_scaler_partial", "idiom_apex_beside_native_clip"),
    ),
    "autograd.Function under autocast": (
        r"autograd\.Function|\(Function\)",
        ("custom_autograd_function",),
        (),
    ),
    "aliases, late and conditional imports": (
        r"import \w+(\.\w+)* as|from torch import amp|\n    +from torch|\n    +import torch",
        ("alias_amp_module", "late_imports", "fallback_import", "renamed_imports"),
        ("deprecated_amp_module_alias",),
    ),
    "a library owns the scaling": (
        r"deepspeed|manual_backward|OptimWrapper|fabric",
        ("deepspeed_engine", "lightning_manual", "mmengine_optim_wrapper", "fabric_loop"),
        (),
    ),
    "unscale_ without a clip, or a clip that a flag chooses": (
        r"unscale_\(",
        ("unscale_for_logging", "clip_under_flag"),
        (),
    ),
    "an inline conditional": (
        r"\.backward\(\) if \w+ else",
        ("inline_conditional",),
        ("idiom_inline_conditional_clip",),
    ),
    "scaler classes of one's own": (
        r"class \w*Scaler",
        ("own_scaler_class",),
        ("idiom_own_scaler_beside_amp",),
    ),
    "a warm-up step before the training": (r"backward\(\)", ("warmup_backward",), ()),
    "constants guarded by a dtype": (
        r"dtype == torch|finfo",
        ("dtype_guarded_constant", "half_mask_fits_the_dtype"),
        (),
    ),
    "other things that are called scaler": (
        r"StandardScaler|class RunningScaler",
        ("sklearn_scaler_beside", "data_scaler_attribute"),
        ("idiom_sklearn_beside_no_update",),
    ),
    "training is a generator": (
        r"\byield\b",
        ("generator_loop", "generator_of_losses"),
        ("idiom_generator_loop_clip",),
    ),
    "callbacks handed to known loops": (
        r"Engine\(update\)|add_event_handler",
        ("ignite_engine",),
        ("idiom_callback_engine_clip", "idiom_callback_engine_no_update"),
    ),
    "callbacks called by name": (
        r"getattr\(\w+, \w+\)\(|\.fire\(|\.call\(",
        ("hook_callbacks",),
        ("idiom_hook_callback_step",),
    ),
}


@pytest.mark.parametrize("idiom", IDIOMS)
def test_an_idiom_is_held_by_fixtures_that_show_it(idiom: str) -> None:
    telling, clean, marked = IDIOMS[idiom]
    assert clean
    for folder, names in (("clean", clean), ("scripts", marked)):
        for name in names:
            text = (FIXTURES / folder / f"{name}.py").read_text(encoding="utf-8")
            assert re.search(telling, text), f"{folder}/{name}.py does not show it"


def test_most_idioms_are_held_with_a_mistake_too() -> None:
    assert sum(bool(marked) for _, _, marked in IDIOMS.values()) >= 0.7 * len(IDIOMS)
