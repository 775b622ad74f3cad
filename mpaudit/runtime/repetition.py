"""Whether code that is under way may come again, told by the bytecode: no source is needed."""

from __future__ import annotations

import dis
from collections.abc import Iterator, Mapping
from types import CodeType, FrameType

Stack = Mapping[int, tuple[CodeType, int]]
"""The frames that were under way at a moment, by identity: their code, and the instruction reached."""

_ENDS = ("RETURN_", "RAISE_", "RERAISE", "JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_ABSOLUTE")
_MANY = 256  # answers that are kept
_JUMPS = frozenset([*dis.hasjrel, *dis.hasjabs])


def stack(frame: FrameType | None) -> Stack:
    """The frames from `frame` outwards."""
    found = {}
    while frame is not None:
        found[id(frame)] = frame.f_code, frame.f_lasti
        frame = frame.f_back
    return found


def may_repeat(frame: FrameType | None, since: Stack) -> bool:
    """Whether what runs in `frame` stands in a loop that began after the moment of `since`.

    A loop counts however often it goes round this time: it may be once. One that goes through the place
    of `since` again is none that began after it.
    """
    while frame is not None:
        code, reached = since.get(id(frame), (None, -1))
        within = code is frame.f_code
        if _comes_again(frame.f_code, frame.f_lasti, reached if within else None):
            return True
        if within:
            return False
        frame = frame.f_back
    return False


_known: dict[tuple[int, int, int | None], tuple[CodeType, bool]] = {}
"""By the identity of a code object, which is kept for that: to hash one takes long."""


def _comes_again(code: CodeType, offset: int, beyond: int | None) -> bool:
    key = id(code), offset, beyond
    found = _known.get(key)
    if found is None:
        if len(_known) == _MANY:
            _known.clear()
        found = _known[key] = code, _found_again(code, offset, beyond)
    return found[1]


def _found_again(code: CodeType, offset: int, beyond: int | None) -> bool:
    """Whether control can get from an instruction back to it, and not through the one `beyond`."""
    after = _successors(code)
    start = _at(after, offset)
    closed = None if beyond is None else _at(after, beyond)
    if start == closed:
        return False
    waiting, seen = [*after[start]], set[int]()
    while waiting:
        here = waiting.pop()
        if here == start:
            return True
        if here != closed and here not in seen:
            seen.add(here)
            waiting += after.get(here, ())
    return False


def _at(after: Mapping[int, object], offset: int) -> int:
    """The instruction that an offset lies in: the caches behind one belong to it."""
    return max(each for each in after if each <= max(offset, 0))


def _successors(code: CodeType) -> dict[int, list[int]]:
    """For each instruction those that may come next, unless an exception is raised."""
    instructions = list(dis.get_instructions(code))
    following = [*(each.offset for each in instructions[1:]), None]
    pairs = zip(instructions, following, strict=True)
    return {each.offset: list(_next(each, behind)) for each, behind in pairs}


def _next(instruction: dis.Instruction, behind: int | None) -> Iterator[int]:
    name = instruction.opname
    if behind is not None and not name.startswith(_ENDS):
        yield behind
    if instruction.opcode in _JUMPS and not name.startswith("SETUP_"):
        yield instruction.argval
