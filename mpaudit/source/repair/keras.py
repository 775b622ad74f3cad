"""Repairs of Keras scripts: what hits one model is repaired together, or not at all.

Half a repair makes things worse: with the policy moved to the top, a softmax under
`from_logits=True` is applied twice in silence (accuracy 0.670 instead of 1.000 on data chosen
to show it, tests/test_article.py), and an optimizer that is wrapped without `scale_loss` divides every
gradient by 32768.
"""

from __future__ import annotations

from mpaudit.finding import Problem, Span
from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.keras_layer import repair_layer
from mpaudit.source.repair.keras_loop import scale_loss, wrap_optimizer
from mpaudit.source.repair.keras_move import move_policy
from mpaudit.source.repair.registry import Context, repairs

POLICY = "policy-after-model"
SOFTMAX = "softmax-with-from-logits"
OUTPUT = "output-not-float32"
LOOP = "keras-loop-without-loss-scaling"
SECOND = "unwrapped-second-optimizer"
SCALE = "missing-scale-loss"
ALL = (POLICY, SOFTMAX, OUTPUT, LOOP, SECOND, SCALE)
SAFE = (OUTPUT, SCALE)
"""Each of these is right by itself, whatever else is wrong with the model."""

MESSAGES = {
    POLICY: "Set the policy before the first layer is built",
    SOFTMAX: "Drop the activation: the loss applies it",
    OUTPUT: "Keep the output layer in float32",
    LOOP: "Wrap the optimizer in a LossScaleOptimizer and scale the loss",
    SECOND: "Wrap this optimizer too, and scale the loss",
    SCALE: "Take the gradients of the scaled loss",
}


@repairs(*ALL)
def repair_together(context: Context) -> Fix | None:
    """One fix for all problems of a model; None for all of them where one part cannot be done."""
    group = _group(context)
    rules = {problem.rule for problem in group}
    edits: list[Edit] = []
    for part in (_policies(context, group), _layers(context, group), _loops(context, group)):
        if part is None:
            return None
        edits.extend(part)
    if not edits:
        return None
    guessed = any(dict(problem.subjects).get("keras") == "None" for problem in group)
    safety = Safety.SAFE if rules <= set(SAFE) and not guessed else Safety.UNSAFE
    note = " (for Keras 3; `--target-keras` says which it is)" if guessed else ""
    if len(rules) == 1:
        return Fix(MESSAGES[context.problem.rule] + note, tuple(edits), safety)
    parts = [MESSAGES[rule] for rule in ALL if rule in rules]
    message = ", ".join([parts[0], *(part[0].lower() + part[1:] for part in parts[1:])])
    return Fix(f"All of it together: {message}{note}", tuple(edits), safety)


def _group(context: Context) -> list[Problem]:
    """The problems that have to be repaired along with this one, itself included.

    A policy concerns every model of the file; else those that name the same output layer.
    """
    problems = [p for p in context.problems if p.rule in ALL]
    file = context.problem.span.filename
    if any(p.rule == POLICY and p.span.filename == file for p in problems):
        return [p for p in problems if p.span.filename == file or _outputs(p) & _files(problems)]
    group, outputs = [context.problem], _outputs(context.problem)
    grown = True
    while grown:
        more = [p for p in problems if p not in group and _outputs(p) & outputs]
        grown = bool(more)
        group.extend(more)
        outputs = outputs.union(*map(_outputs, more))
    if {p.rule for p in group} <= set(SAFE):
        return [context.problem]
    return sorted(group, key=lambda p: (p.span, p.rule))


def _outputs(problem: Problem) -> frozenset[str]:
    return frozenset(text for name, text in problem.subjects if name == "output")


def _files(problems: list[Problem]) -> frozenset[str]:
    return frozenset().union(*map(_outputs, problems))


def _policies(context: Context, group: list[Problem]) -> list[Edit] | None:
    edits: list[Edit] = []
    for problem in group:
        if problem.rule == POLICY:
            part = move_policy(context.module, problem)
            if part is None:
                return None
            edits.extend(part)
    return edits


def _layers(context: Context, group: list[Problem]) -> list[Edit] | None:
    edits: list[Edit] = []
    wrong: dict[Span, set[str]] = {}
    for problem in group:
        if problem.rule in (SOFTMAX, OUTPUT):
            wrong.setdefault(problem.span, set()).add(problem.rule)
    for span, rules in wrong.items():
        part = repair_layer(context.module, span, drop=SOFTMAX in rules, half=OUTPUT in rules)
        if part is None:
            return None
        edits.extend(part)
    return edits


def _loops(context: Context, group: list[Problem]) -> list[Edit] | None:
    """The repairs of loops; they are Keras 3's, whose optimizers unscale: not offered for Keras 2."""
    edits: list[Edit] = []
    for problem in group:
        if problem.rule in (LOOP, SECOND, SCALE):
            if dict(problem.subjects).get("keras") == "2":
                return None
            scaled = scale_loss(context.module, problem)
            wrapped = [] if problem.rule == SCALE else wrap_optimizer(context.module, problem)
            if scaled is None or wrapped is None:
                return None
            edits.extend((*scaled, *wrapped))
    return edits
