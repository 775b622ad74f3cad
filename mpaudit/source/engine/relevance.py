"""Which functions are worth following: those that can touch what a protocol watches.

A function whose body, and whose callees by name, mention nothing of mixed precision, optimizers or
models cannot emit an event; its result is unknown, and nothing handed to it is changed.
"""

from __future__ import annotations

import ast

from msgspec import Struct

from mpaudit.source.engine.narrow import HANDLING, NARROWNESS, TRAINING
from mpaudit.source.engine.values import Function
from mpaudit.source.engine.word import (
    ACCELERATE_WORDS,
    BUILDING,
    ENGINES,
    KERAS_TELLING,
    KERAS_WORDS,
    LAYER,
    METHODS,
    OWNER_WORDS,
    OWNERS,
    SHARDING,
    SPEAKING,
    STEPS,
    TELLING,
    TRAINERS,
    WORDS,
)
from mpaudit.source.text.module import Module
from mpaudit.source.text.outline import CLOSES, HELD, KEEPS, Mentions, Outline, outline, said
from mpaudit.source.text.project import Project

NARROW = frozenset([TRAINING, *(each for each in NARROWNESS if each is not None)])
"""What is looked for where the budget is short."""
MAX_REEXPORTS = 4
MAX_IMPORTS = 2
"""How far imports are traced: what is further off matters only by what it mentions itself."""


class Relevant(Struct, frozen=True):
    """What matters in a file: its functions by (class, name), the names that stand for them, the words."""

    functions: frozenset[tuple[str | None, str]] = frozenset()
    names: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()


class Relevance:
    """What is worth following in a project; names are traced through its imports."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._known: dict[tuple[str, frozenset[str], bool], Relevant] = {}
        self._words: dict[frozenset[str], frozenset[str]] = {}
        """The words of files, most of which have the same: they take some kilobytes for each."""
        self._level = 0
        self._outlines: dict[str, Outline] = {}
        self._idle: dict[str, dict[tuple[ast.stmt, frozenset[str]], bool]] = {}

    def entering(self, module: Module, owner: str | None, name: str) -> bool:
        """Whether a function that nobody calls is worth executing for itself."""
        least = WORDS if name in STEPS else TELLING
        if (owner, name) in self._relevant(module, least=least).functions:
            return True
        mentions = self._outline(module).functions.get((owner, name))
        return mentions is not None and CLOSES in mentions.words

    def through(self, module: Module, name: str) -> frozenset[str]:
        """The names by which alone a function outside of a class matters; none if it matters by itself."""
        seen = self._outline(module)
        mentions, relevant = seen.functions[None, name], self._relevant(module, least=WORDS)
        if _matters(mentions, seen, relevant.words, set()):
            return frozenset()
        return relevant.names & mentions.words - mentions.foreign

    def following(self, function: Function) -> bool:
        """Whether calling this function can matter to any protocol."""
        if isinstance(function.node, ast.Lambda) or function.name == "__init__":
            return True
        owner = function.owner.node.name if function.owner else None
        relevant = self._relevant(function.module, least=WORDS)
        return (owner, function.name) in relevant.functions

    def speaking(self, function: Function) -> bool:
        """Whether a function mentions what matters, or calls what does; not one that only passes on.

        What merely calls what it holds matters to what it is handed, and to nothing else.
        """
        owner = function.owner.node.name if function.owner else None
        relevant = self._relevant(function.module, least=SPEAKING)
        if function.name == "__init__":
            return owner in relevant.names or (owner, function.name) in relevant.functions
        return isinstance(function.node, ast.Lambda) or (owner, function.name) in relevant.functions

    def building(self, function: Function) -> bool:
        """Whether a function adds to what an object is made of, or calls what does.

        An `__init__` does: what later methods store things in is often empty there.
        """
        if isinstance(function.node, ast.Lambda) or function.name == "__init__":
            return True
        owner = function.owner.node.name if function.owner else None
        return (owner, function.name) in self._relevant(function.module, least=BUILDING).functions

    def handling(self, function: Function, least: frozenset[str] = HANDLING) -> bool:
        """Whether a function handles scalers, regions or gradients itself, or calls what does."""
        relevant = self._relevant(function.module, least=least)
        if isinstance(function.node, ast.Lambda):
            inside = said(function.node.body, self._outline(function.module))
            return bool(inside.words & least or (inside.words & relevant.names) - inside.foreign)
        owner = function.owner.node.name if function.owner else None
        if function.name == "__init__":
            return owner in relevant.names
        return (owner, function.name) in relevant.functions

    def idle(self, module: Module, node: ast.stmt, least: frozenset[str]) -> bool:
        """Whether a statement handles nothing of that, nor calls what does."""
        key, known = (node, least), self._idle.setdefault(module.filename, {})
        if key not in known:
            seen = self._outline(module)
            mentions = said(node, seen)
            names = self._relevant(module, least=least).names
            known[key] = not _matters(mentions, seen, least, set(names))
        return known[key]

    def leave(self, module: Module) -> None:
        """Forget what is known of the nodes of a module."""
        self._idle.pop(module.filename, None)

    def _relevant(self, module: Module, *, least: frozenset[str]) -> Relevant:
        """What mentions a word in a file, or what mentions that.

        To build a model is to do nothing yet: its methods are entered for themselves.
        """
        near = self._level < MAX_IMPORTS
        key = (module.filename, least, near)
        if key in self._known:
            return self._known[key]
        self._known[key] = Relevant()  # what an import cycle sees
        seen = self._outline(module)
        keras = _keras_words(seen)
        wide = least in (WORDS, SPEAKING)
        keras |= _owner_words(seen) if wide else frozenset()
        if wide and module.mentions("FullyShardedDataParallel"):
            keras |= SHARDING
        keras |= ENGINES if wide and module.mentions("deepspeed") else frozenset()
        if keras and not wide and least is not BUILDING:
            keras = KERAS_TELLING
        words = least | keras
        if least is TELLING and module.mentions("GradScaler"):
            words |= {"state_dict()"}
        elif least is not TELLING and module.mentions("ccelerator"):
            words |= ACCELERATE_WORDS
        trainers = _trainer_words(seen, module.text)
        words |= trainers
        names: set[str] = set()
        if near:
            self._level += 1
            names = self._imported(module, least=least) | self._inherited(module, least=least)
            names |= self._through_modules(module, least=least) if least in NARROW else set()
            self._level -= 1
        names |= {name for name, used in seen.assigned.items() if used & words}
        names |= {name for name, bases in seen.classes.items() if bases & (trainers | names)}
        functions: set[tuple[str | None, str]] = set()
        while True:
            more = {
                place
                for place, mentions in seen.functions.items()
                if place not in functions and _matters(mentions, seen, words, names)
            }
            if not more:
                break
            functions |= more
            reached = {name for _, name in more if name not in METHODS}
            reached |= {
                owner
                for owner, _ in functions
                if owner is not None and (wide or "Module" not in seen.classes.get(owner, ()))
            }
            reached |= {name for name, bases in seen.classes.items() if bases & (reached | names)}
            names |= reached
        if wide:
            functions |= {place for place, m in seen.functions.items() if KEEPS in m.words}
        alike = self._words.setdefault(frozenset(words), frozenset(words))
        self._known[key] = Relevant(frozenset(functions), frozenset(names), alike)
        return self._known[key]

    def _outline(self, module: Module) -> Outline:
        if module.filename not in self._outlines:
            try:
                self._outlines[module.filename] = module.glance(outline)
            except RecursionError:  # generated code, nested thousands deep
                self._outlines[module.filename] = Outline()
        return self._outlines[module.filename]

    def _imported(self, module: Module, *, least: frozenset[str]) -> set[str]:
        """The names that a file imports from relevant places of the project."""
        found: set[str] = set()
        for node in self._outline(module).imports:
            if any(alias.name == "*" for alias in node.names):
                continue
            source = self.project.find(node.module or "", module, node.level)
            for alias in node.names if source is not None else ():
                if self._offers(source, alias.name, least=least):
                    found.add(alias.asname or alias.name)
        return found

    def _through_modules(self, module: Module, *, least: frozenset[str]) -> set[str]:
        """What is relevant of modules of the project that a file imports as such: `steps.run`, as it says."""
        seen = self._outline(module)
        whole = {name: self.project.find(origin, module) for name, origin in seen.whole.items()}
        for node in seen.imports:
            base = f"{node.module}." if node.module else ""
            for alias in node.names:
                name = alias.asname or alias.name
                if name in seen.parts and name[:1].islower():
                    whole[name] = self.project.find(base + alias.name, module, node.level)
        return {
            f"{name}.{inner}"
            for name, source in whole.items()
            if source is not None
            for owner, inner in self._relevant(source, least=least).functions
            if owner is None
        }

    def _inherited(self, module: Module, *, least: frozenset[str]) -> set[str]:
        """The relevant methods of the classes in other files that this file's classes derive from."""
        seen = self._outline(module)
        bases = set().union(*seen.classes.values()) if seen.classes else set()
        found: set[str] = set()
        for node in seen.imports:
            base = node.module or ""
            for alias in node.names:
                if (alias.asname or alias.name) not in bases:
                    continue
                inner = f"{base}.{alias.name}" if base else alias.name
                source = self.project.find(base, module, node.level) if base else None
                source = self.project.find(inner, module, node.level) or source
                if source is not None:
                    methods = self._relevant(source, least=least).functions
                    found |= {name for owner, name in methods if owner and name not in METHODS}
        return found

    def _offers(
        self, module: Module | None, name: str, *, least: frozenset[str], depth: int = 0
    ) -> bool:
        """Whether what a file calls `name`, or passes on under that name, is relevant."""
        if module is None or depth > MAX_REEXPORTS:
            return False
        seen = self._outline(module)
        if (None, name) in seen.functions or name in seen.classes or name in seen.assigned:
            return name in self._relevant(module, least=least).names
        return any(
            self._offers(
                self.project.find(node.module or "", module, node.level),
                name if alias.name == "*" else alias.name,
                least=least,
                depth=depth + 1,
            )
            for node in seen.passed
            for alias in node.names
            if name == (alias.asname or alias.name) or alias.name == "*"
        )


def _matters(mentions: Mentions, seen: Outline, words: frozenset[str], names: set[str]) -> bool:
    """Whether a function mentions a word, or the name of what matters in the project.

    A `forward` calls layers that `__init__` has stored: what counts is what they are made of.
    """
    mentioned, foreign, handed = mentions.words, mentions.foreign, mentions.handed
    if mentions.name == "forward" and mentions.owner is not None:
        init = seen.functions.get((mentions.owner, "__init__"))
        if init is not None:
            mentioned, foreign = mentioned | init.words, foreign | init.foreign
            handed = handed | init.handed
        words -= {HELD, "nn.Class", "Sequential"}
    if LAYER in words and mentions.owner is not None and (mentions.owner, "call") in seen.functions:
        return True
    if mentioned & words:
        return True
    # `model.train()` is no call of a method of the project that wants arguments.
    return any(
        "." in each or (each not in foreign and (each in handed or each in seen.plain))
        for each in mentioned & names
    )


def _owner_words(seen: Outline) -> frozenset[str]:
    """What matters in a file because it imports Lightning or its like; nothing in other files."""
    imported = {(node.module or "").partition(".")[0] for node in seen.imports} | seen.modules
    return OWNER_WORDS if imported & OWNERS else frozenset()


def _trainer_words(seen: Outline, text: str) -> frozenset[str]:
    """What matters in a file that hands its training over to Hugging Face's Trainer or its kin."""
    if "TrainingArguments" not in text and "trl" not in text:
        return frozenset()
    found: set[str] = set()
    for node in seen.imports:
        library = (node.module or "").partition(".")[0]
        if library in ("transformers", "trl", "sentence_transformers"):
            ends = ("Arguments", "Trainer", *(["Config"] if library == "trl" else []))
            found |= {a.asname or a.name for a in node.names if a.name.endswith(ends)}
    return frozenset(found | TRAINERS)


def _keras_words(seen: Outline) -> frozenset[str]:
    """What matters in a file because it imports Keras; nothing in other files."""
    from_keras = [node for node in seen.imports if "keras" in (node.module or "")]
    found = {alias.asname or alias.name for node in from_keras for alias in node.names}
    libraries = {"tensorflow", "keras", "tf_keras"}
    imported = {alias.name for node in seen.imports for alias in node.names} | seen.modules
    if not from_keras and not imported & libraries:
        return frozenset()
    found |= KERAS_WORDS
    return frozenset(found | {name for name, used in seen.assigned.items() if used & found})
