"""From which inherited methods a class is driven."""

import ast

import pytest

from mpaudit.source.engine.driver import drivers
from mpaudit.source.engine.values import Class
from mpaudit.source.text.module import Module

SCRIPT = """
import inspect

class Base:
    def run(self, batch):
        {body}

class Model(Base):
    def forward(self, batch):
        return batch
"""


@pytest.mark.parametrize(
    ("body", "driven"),
    [
        ("return self.forward(batch)", ["run"]),
        ("return list(map(self.forward, batch))", ["run"]),
        ("return batch if inspect.signature(self.forward).parameters else None", []),
        ("return self.forward(batch) if inspect.signature(self.forward) else None", ["run"]),
    ],
)
def test_who_only_asks_for_the_parameters_of_a_method_does_not_drive_it(
    body: str, driven: list[str]
) -> None:
    module = Module.parse(SCRIPT.format(body=body), "script.py")
    base, model = (node for node in module.tree.body if isinstance(node, ast.ClassDef))
    owner = Class(model, module, 2, (Class(base, module, 1),))
    assert drivers(owner, {"forward"}) == driven
