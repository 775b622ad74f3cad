"""Precisions that exclude each other in a DeepSpeed configuration, in a file of its own."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.finding import Problem, Related
from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.text.config_file import ConfigFile, UnreadableConfigError
from mpaudit.source.text.tree_text import Entry, Opaque, Tree

RULE = "deepspeed-config-conflict"
BOTH = 'DeepSpeed raises "bfloat16 and fp16 modes cannot be simultaneously enabled"'
APEX = (
    "apex's `amp` goes with no other precision and with no ZeRO stage: DeepSpeed refuses it, and since 0.19 "
    'raises "NVIDIA Apex AMP integration has been removed"'
)
STATES = (
    'DeepSpeed raises "bf16_optimizer_states requires bf16_master_weights_and_grads to be enabled."'
)
OWN = ("zero_optimization", "train_micro_batch_size_per_gpu", "train_batch_size", "optimizer")
"""Keys, one of which a configuration has that speaks of apex."""


def check_config(config: ConfigFile) -> Iterator[tuple[Problem, Fix | None]]:
    """What is wrong with a file. Raises UnreadableConfigError."""
    top = config.tree()
    _whole(config, top)
    for tree in top.trees():
        yield from _both(config, tree)
        yield from _apex(config, tree)
        yield from _states(config, tree)


def _whole(config: ConfigFile, top: Tree) -> None:
    """Raise UnreadableConfigError where a part has another type than DeepSpeed takes."""
    if not config.filename.endswith(".json") or not any(top.get(each) for each in OWN[:3]):
        return
    for name in ("fp16", "bf16", "zero_optimization"):
        part, switch = top.get(name), top.get(name, "enabled")
        if part is not None and not isinstance(part.value, Tree) and part.value != "auto":
            raise UnreadableConfigError(f"`{name}` is no object", config.span(*part.place))
        if switch is not None and isinstance(switch.value, (Tree, Opaque)):
            reason = f"`{name}.enabled` is neither true nor false"
            raise UnreadableConfigError(reason, config.span(*switch.place))


def switched_on(tree: Tree, name: str) -> Entry | None:
    """The entry of a precision that is certainly on; "auto" and every other text is not."""
    switch = tree.get(name, "enabled")
    return tree.get(name) if switch is not None and switch.value is True else None


def _bfloat16(tree: Tree) -> Entry | None:
    """DeepSpeed reads "bfloat16" where there is no "bf16"."""
    return switched_on(tree, "bf16" if tree.get("bf16") is not None else "bfloat16")


def _both(config: ConfigFile, tree: Tree) -> Iterator[tuple[Problem, Fix | None]]:
    half, other = switched_on(tree, "fp16"), _bfloat16(tree)
    if half is None or other is None:
        return
    problem = Problem(
        RULE,
        config.span(*half.key),
        "`fp16` and `bf16` are both enabled in a DeepSpeed configuration",
        BOTH,
        (Related(config.span(*other.key), "the other one is enabled here"),),
    )
    yield problem, _off(config, tree, "fp16", "keep `bf16`")


def _apex(config: ConfigFile, tree: Tree) -> Iterator[tuple[Problem, Fix | None]]:
    apex = switched_on(tree, "amp")
    if apex is None or not any(tree.get(each) for each in OWN):
        return
    stage = tree.get("zero_optimization", "stage")
    sharded = stage is not None and stage.value in (1, 2, 3) and not isinstance(stage.value, bool)
    beside = switched_on(tree, "fp16") or _bfloat16(tree) or (stage if sharded else None)
    if beside is None:
        return
    problem = Problem(
        RULE,
        config.span(*apex.key),
        "`amp` is enabled in a DeepSpeed configuration beside what excludes it",
        APEX,
        (Related(config.span(*beside.key), "this excludes it"),),
    )
    kept = switched_on(tree, "fp16") or _bfloat16(tree)
    yield problem, _off(config, tree, "amp", "keep the other") if kept is not None else None


def _states(config: ConfigFile, tree: Tree) -> Iterator[tuple[Problem, Fix | None]]:
    if _bfloat16(tree) is None:
        return
    states = tree.get("bf16", "bf16_optimizer_states")
    masters = tree.get("bf16", "bf16_master_weights_and_grads")
    if states is None or states.value is not True or (masters and masters.value is not False):
        return
    yield (
        Problem(
            RULE,
            config.span(*states.key),
            "`bf16_optimizer_states` without `bf16_master_weights_and_grads`",
            STATES,
        ),
        None,
    )


def _off(config: ConfigFile, tree: Tree, name: str, kept: str) -> Fix | None:
    switch = tree.get(name, "enabled")
    if switch is None or not config.asked:
        return None
    edit = Edit(*switch.place, "false")
    return Fix(f"Switch `{name}` off, {kept}", (edit,), Safety.UNSAFE)
