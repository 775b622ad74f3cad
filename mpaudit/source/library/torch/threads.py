"""Threads: what runs in them is in none of the autocast regions that the starting thread is in."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import ThreadForward
from mpaudit.source.engine.registry import method
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import NONE, TRUE, External, Pack, Thing, Value
from mpaudit.source.library.torch.layers import multiplies
from mpaudit.source.library.torch.model_call import model_call

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call

POOLS = frozenset(
    [
        "concurrent.futures.ThreadPoolExecutor",
        "concurrent.futures.thread.ThreadPoolExecutor",
        "multiprocessing.pool.ThreadPool",
        "multiprocessing.dummy.Pool",
    ]
)
SUBMITS = (
    "submit",
    "map",
    "imap",
    "imap_unordered",
    "apply",
    "apply_async",
    "map_async",
    "starmap",
)
_ONE = ("submit",)
"""Methods that hand the arguments on as they are; the others hand on items of them."""
_STARTED = (0, "@thread_region")


@on_result(functions=("threading.Thread", *POOLS), methods=(), kinds=("Module",))
def called(call: Call, callee: Value, made: Value) -> None:
    """A thread or a pool of threads is made, or a model runs in one."""
    if isinstance(callee, External):
        if isinstance(made, Thing):
            _made(call, callee.name, made)
    elif isinstance(callee, Thing) and callee.kind == "Module" and _STARTED in call.path.heap:
        _ran(call, callee)


def _made(call: Call, name: str, made: Thing) -> None:
    if name == "threading.Thread":
        target = call.argument(1, "target")
        given = call.argument(3, "args")
        arguments = given if isinstance(given, Pack) else Pack(())
        call.path.learn(made, target=target, target_args=arguments)
    elif name in POOLS and "initializer" not in call.keywords:
        call.path.learn(made, thread_pool=TRUE)


@method("library", "start")
def start(call: Call) -> Value | None:
    """`thread.start()` in a region."""
    target, given = (call.path.known(call.thing, name) for name in ("@target", "@target_args"))
    if target is None or not isinstance(given, Pack):
        return None
    _run(call, target, given.items, call.node)
    return NONE


@method("library", *SUBMITS)
def submit(call: Call) -> Value | None:
    """`pool.submit(run, x)`, `pool.map(run, batches)` in a region."""
    function, node = call.argument(0), call.argument_node(0)
    if function is None or node is None or call.path.known(call.thing, "@thread_pool") is None:
        return None
    _run(call, function, call.arguments[1:] if call.name in _ONE else (), node)
    return None


def _run(call: Call, function: Value, arguments: tuple[Value, ...], spelled: ast.expr) -> None:
    """Follow what a thread runs; the regions are left for as long as that takes."""
    path, engine = call.path, call.engine
    site = engine.sites.setdefault(
        (call.node, -1), ast.copy_location(ast.Call(spelled, [], []), call.node)
    )
    assert isinstance(site, ast.Call)
    left = engine.made(site, path)
    if path.known(left, "@regions") is None:
        region = engine.region(path)
        if region is None or _STARTED in path.heap:
            return
        path.learn(left, regions=Pack(path.regions))
        path.heap[_STARTED] = region
        path.regions = ()
    if site not in path.frame.done:
        path.frame.done[site] = engine.call(site, function, arguments, {}, path)
    stored = path.known(left, "@regions")
    held = stored.items if isinstance(stored, Pack) else ()
    path.regions = tuple(each for each in held if isinstance(each, Thing))
    path.heap.forget(_STARTED)
    path.heap.forget((left.uid, "@regions"))


def _ran(call: Call, model: Thing) -> None:
    path, engine = call.path, call.engine
    if any(region.kind == "autocast" for region in path.regions):
        return
    region = engine.describe(path.heap.get(_STARTED), path)
    if region is None or not multiplies(model, engine, path):
        return
    at, text = model_call(call)
    call.emit(
        ThreadForward(at=at, occasional=call.occasional, model=text, region=region),
    )
