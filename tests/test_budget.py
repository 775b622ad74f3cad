"""Programs that are too large to be followed whole: what handles gradients is followed all the same."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from test_fixtures import CLEAN, CLEAN_PROJECTS

from mpaudit.audit import check
from mpaudit.source import analysis
from mpaudit.source.engine.allowance import Oversized
from mpaudit.source.engine.binding import Exhausted
from mpaudit.source.engine.expression import Expressions
from mpaudit.source.engine.importing import BUDGET
from mpaudit.source.engine.narrow import HANDLING, REGIONS
from mpaudit.source.engine.spending import Spending

HEAD = """import torch
from torch import nn


class Model:
    def __init__(self, args):
        self.args = args
        if not torch.cuda.is_available():
            self.args.fp16 = False
        self.model = nn.Linear(8, 2)

    def evaluate(self, data):
        results = {}
        for name, batch in data:
            with torch.autocast("cuda", enabled=self.args.fp16):
                output = self.model(batch)
EVALUATE
        return results

    def train(self, data, device):
        args, best, history = self.args, None, []
        self.model.to(device)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=args.lr)
        if self.args.fp16:
            scaler = torch.amp.GradScaler("cuda")
        for epoch in range(args.epochs):
            for step, (inputs, targets) in enumerate(data):
                if self.args.fp16:
                    with torch.autocast("cuda"):
                        loss = nn.functional.cross_entropy(self.model(inputs), targets)
                else:
                    loss = nn.functional.cross_entropy(self.model(inputs), targets)
                if args.gpus > 1:
                    loss = loss.mean()
                if self.args.fp16:
                    scaler.scale(loss).backward()
                else:
                    loss.backward()
                if (step + 1) % args.accumulate == 0:
                    if self.args.fp16:
                        UNSCALE
                    nn.utils.clip_grad_norm_(self.model.parameters(), args.norm)
                    if self.args.fp16:
                        scaler.step(optimizer)
                        UPDATE
                    else:
                        optimizer.step()
                    self.model.zero_grad()
REPORT
                    if args.evaluate:
                        results = self.evaluate(data)
                        if best is None or results["loss"] < best:
                            best = results["loss"]
                            torch.save(self.model.state_dict(), args.output)
                        elif args.early:
                            return history
"""


def program(flags: int, unscale: str, update: str) -> str:
    """A trainer in whose evaluation and reports so many flags are asked."""
    asked = "\n".join(
        f"{{pad}}if self.args.flag{n}:\n{{pad}}    print({n}, step, loss)\n"
        f"{{pad}}    history = history + [{n}] if history else [{n}]"
        for n in range(flags)
    )
    evaluated = "\n".join(
        f"            if self.args.metric{n}:\n                results['m{n}'] = output.softmax(-1)[{n % 8}]"
        for n in range(flags)
    )
    text = HEAD.replace("EVALUATE", evaluated).replace("REPORT", asked.format(pad=" " * 20))
    return text.replace("UNSCALE", unscale).replace("UPDATE", update)


@pytest.mark.parametrize(
    ("unscale", "update", "wanted"),
    [
        ("scaler.unscale_(optimizer)", "scaler.update()", set()),
        ("pass", "scaler.update()", {"clip-before-unscale"}),
        ("scaler.unscale_(optimizer)", "pass", {"missing-scaler-update"}),
    ],
)
def test_a_training_is_followed_whatever_is_asked_beside_it(
    tmp_path: Path, unscale: str, update: str, wanted: set[str]
) -> None:
    path = tmp_path / "train.py"
    path.write_text(program(24, unscale, update), encoding="utf-8")
    report = check([path])
    ignored = {"scaler-not-checkpointed"}
    assert {finding.name for finding in report.findings} - ignored == wanted
    assert report.warnings == ()


def test_what_is_left_for_a_file_suffices_for_a_narrower_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the rest of a large file has used up leaves less; wider attempts must not take it all."""
    monkeypatch.setattr(analysis, "FILE_BUDGET", 80_000)
    path = tmp_path / "train.py"
    path.write_text(program(24, "pass", "scaler.update()"), encoding="utf-8")
    report = check([path])
    assert "clip-before-unscale" in {finding.name for finding in report.findings}
    assert report.warnings == ()


CHOSEN = """        if args.optimizer == "adamw":
            optimizer = torch.optim.AdamW(self.model.parameters(), lr=args.lr)
        elif args.optimizer == "sgd":
            optimizer = torch.optim.SGD(self.model.parameters(), lr=args.lr)
        else:
            raise ValueError(args.optimizer)
"""


def test_regions_are_followed_in_a_training_that_others_call(tmp_path: Path) -> None:
    text = program(24, "pass", "pass")
    text = text.replace(
        HEAD[
            HEAD.index("        optimizer =") : HEAD.index(
                "        if self.args.fp16:\n            sc"
            )
        ],
        CHOSEN,
    )
    text = text.replace("scaler.scale(loss).backward()", "loss.backward()").replace(
        "scaler.step(optimizer)", "optimizer.step()"
    )
    path = tmp_path / "train.py"
    path.write_text(
        f"{text}\n    def fit(self, data):\n        self.train(data, 'cuda')\n", encoding="utf-8"
    )
    report = check([path])
    assert [
        (finding.name, path.read_text().splitlines()[finding.span.start.row - 1].strip())
        for finding in report.findings
    ] == [("missing-grad-scaler", "loss.backward()")]


def test_the_program_is_too_large_to_be_followed_whole() -> None:
    assert BUDGET < 2**24


def passes(spending: Spending, cost: int, done: list[int]) -> None:
    """Two passes of a loop around one of ten, each of which costs so much."""
    outer = spending.repeat(2)
    for _ in range(2):
        outer.turn(spending.budget)
        inner = spending.repeat(10)
        for _ in range(10):
            inner.turn(spending.budget)
            spending.spend(cost)
            done.append(cost)
        spending.repeats.pop()
    spending.repeats.pop()


def test_an_attempt_that_will_not_suffice_ends_early() -> None:
    spending, done = Spending(1000), list[int]()
    around = spending.attempt_within(0)
    passes(spending, 45, done)
    spending.attempted(around)
    assert (sum(done), spending.budget) == (900, 100)

    spending.budget = 1000
    done.clear()
    around = spending.attempt_within(0)
    with pytest.raises(Exhausted):
        passes(spending, 100, done)  # twice as much as there is
    spending.attempted(around)
    assert sum(done) < 600
    assert spending.budget < 0  # it is as if all had been spent
    assert not spending.repeats


def test_what_belongs_to_the_caller_is_not_foreseen_for_a_call() -> None:
    spending, done = Spending(10_000), list[int]()
    around = spending.attempt_within(0)
    repeat = spending.repeat(100)
    repeat.turn(spending.budget)
    inner = spending.attempt_within(spending.budget - 1000)
    passes(spending, 45, done)
    spending.attempted(inner)
    assert sum(done) == 900
    with pytest.raises(Exhausted):
        spending.spend(2000)
    spending.attempted(around)


@pytest.mark.parametrize("unscale", ["scaler.unscale_(optimizer)", "pass"])
def test_to_give_up_early_changes_nothing_but_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unscale: str
) -> None:
    path = tmp_path / "train.py"
    path.write_text(program(24, unscale, "scaler.update()"), encoding="utf-8")
    evaluate, count = Expressions.evaluate, 0

    def counted(engine: Expressions, node: ast.expr, where: object) -> object:
        nonlocal count
        count += 1
        return evaluate(engine, node, where)  # type: ignore[arg-type]

    monkeypatch.setattr(Expressions, "evaluate", counted)
    early, work = check([path]), count
    monkeypatch.setattr(Spending, "foreseen", lambda _: 0)
    late = check([path])
    assert early.findings == late.findings
    assert work < 0.9 * (count - work)


def test_what_is_called_last_gets_most_of_the_budget(tmp_path: Path) -> None:
    """A scaler for each epoch shows in the second epoch only: `main` calls what calls the training."""
    asked = "\n".join(
        f"        if args.flag{n}:\n            history.append(({n}, loss.item()))"
        for n in range(40)
    )
    path = tmp_path / "nested.py"
    path.write_text(
        f"""import argparse
import torch
from torch import nn


def train(model, optimizer, loader, args, history):
    scaler = torch.amp.GradScaler("cuda")
    for inputs, targets in loader:
        optimizer.zero_grad()
        with torch.autocast("cuda"):
            loss = nn.functional.cross_entropy(model(inputs), targets)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
{asked}


def run(args):
    model = nn.Linear(8, 2).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
    history = []
    for epoch in range(args.epochs):
        train(model, optimizer, args.loader, args, history)


def launch(args):
    torch.manual_seed(args.seed)
    run(args)


def main():
    args = argparse.ArgumentParser().parse_args()
    launch(args)


if __name__ == "__main__":
    main()
""",
        encoding="utf-8",
    )
    assert [finding.name for finding in check([path]).findings] == ["scaler-in-loop"]


def test_what_has_not_sufficed_is_tried_again_only_with_far_more() -> None:
    known, function = Oversized(), ast.parse("def train(): pass").body[0]
    known.note(function, level=1, allowed=1000, turn=1)
    assert known.hopeless(function, 0, 5000, turn=1)  # in the same turn it stands
    assert known.hopeless(function, 1, 1200, turn=2)
    assert not known.hopeless(function, 1, 1300, turn=2)
    assert not known.hopeless(function, 2, 1000, turn=1)  # more narrowly, it may be followed


AGENT = """import torch
from torch import nn


class Agent:
    def __init__(self, model, options):
        self.model, self.options = model, options
        self.scaler = torch.amp.GradScaler("cuda", enabled=options.amp)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
MORE

    def update(self, batches):
        for epoch in range(self.options.epochs):
            for inputs, targets in batches:
                with torch.autocast("cuda", enabled=self.options.amp):
                    loss = nn.functional.mse_loss(self.model(inputs), targets)
                self.optimizer.zero_grad()
                self.scaler.scale(loss).backward()
OPTIONS
                self.scaler.step(self.optimizer)
                self.scaler.update()
SAVED

    def save(self, path):
        torch.save({"optimizer": self.optimizer.state_dict()}, path)

    def load(self, path):
        self.optimizer.load_state_dict(torch.load(path)["optimizer"])
"""
SAVED = """            while self.options.saves:
                torch.save({"scaler": self.scaler.state_dict()}, self.options.path)
                break"""


@pytest.mark.parametrize(("saved", "wanted"), [("", ["scaler-not-checkpointed"]), (SAVED, [])])
def test_whom_a_scaler_steps_counts_however_narrowly_it_is_followed(
    tmp_path: Path, saved: str, wanted: list[str]
) -> None:
    """What is saved in passing is not followed there, and silences."""
    more = "\n".join(
        f"        self.part{n} = torch.optim.Adam(model.part{n}.parameters())" for n in range(24)
    )
    options = "\n".join(
        f"                if self.options.trains{n}:\n                    self.scaler.step(self.part{n})"
        for n in range(24)
    )
    path = tmp_path / "agent.py"
    text = AGENT.replace("MORE", more).replace("OPTIONS", options).replace("SAVED", saved)
    path.write_text(text, encoding="utf-8")
    assert [finding.name for finding in check([path]).findings] == wanted


def test_what_a_class_inherits_leaves_enough_for_what_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that is too large to be followed calls an epoch that is not: the epoch is entered for itself."""
    clips = "\n".join(
        f"            if options.clip{n}:\n"
        f"                nn.utils.clip_grad_norm_(model.parameters(), options.clip{n})"
        for n in range(80)
    )
    (tmp_path / "base.py").write_text(
        f"""from torch import nn


class Trainer:
    @classmethod
    def run(cls, model, optimizer, loader, scaler, options):
        for epoch in range(options.epochs):
            cls.epoch(model, optimizer, loader, scaler, options)
{clips}
            optimizer.step()

    @classmethod
    def epoch(cls, model, optimizer, loader, scaler, options):
        raise NotImplementedError
""",
        encoding="utf-8",
    )
    own = tmp_path / "own.py"
    own.write_text(
        """import torch
from base import Trainer
from torch import nn


class Own(Trainer):
    @classmethod
    def epoch(cls, model, optimizer, loader, scaler, options):
        for inputs, targets in loader:
            optimizer.zero_grad()
            with torch.autocast("cuda"):
                loss = nn.functional.cross_entropy(model(inputs), targets)
            scaler.scale(loss).backward()
            nn.utils.clip_grad_norm_(model.parameters(), options.norm)
            scaler.step(optimizer)
            scaler.update()
""",
        encoding="utf-8",
    )
    monkeypatch.setattr(analysis, "FILE_BUDGET", 6_000)  # the loop alone takes more
    report = check([own])
    assert [finding.name for finding in report.findings] == ["clip-before-unscale"]


@pytest.mark.slow
@pytest.mark.parametrize("level", [HANDLING, REGIONS])
def test_correct_code_is_silent_however_narrowly_it_is_followed(
    monkeypatch: pytest.MonkeyPatch, level: frozenset[str]
) -> None:
    monkeypatch.setattr(analysis, "NARROWNESS", (level,))
    paths = [*CLEAN, *CLEAN_PROJECTS]
    found = [(finding.name, finding.span) for path in paths for finding in check([path]).findings]
    assert found == []


CAST_BACK = """import torch
from torch import nn


def prepare(model, options):
    options.log(model)
    for part in model.children():
        part.float()


def train(loader, options):
    model = nn.Linear(8, 2).cuda().half()
    prepare(model, options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for inputs, labels in loader:
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""
ANEW = """import torch
from torch import nn


def epoch(model, optimizer, loader):
    scaler = torch.amp.GradScaler("cuda")
    for inputs, labels in loader:
        with torch.autocast("cuda", dtype=torch.float16):
            loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


def train(loader, epochs):
    model = nn.Linear(8, 2).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(epochs):
        epoch(model, optimizer, loader)
"""
KEPT = """import torch
from torch import nn

model = nn.Linear(8, 2).cuda().half()  # mpaudit: ignore[half-parameters]
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for inputs in torch.randn(4, 16, 8).half().cuda():
    optimizer.zero_grad()
    model(inputs).float().sum().backward()
    optimizer.step()
"""


@pytest.mark.parametrize(
    ("text", "level", "wanted"),
    [
        (CAST_BACK, HANDLING, []),
        (KEPT, HANDLING, []),
        (ANEW, None, ["scaler-in-loop"]),
        (ANEW, HANDLING, ["scaler-in-loop"]),
        (ANEW, REGIONS, ["scaler-in-loop"]),
    ],
    ids=["cast-back", "kept-comment", "whole", "handling", "regions"],
)
def test_what_is_judged_rests_on_what_was_followed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    level: frozenset[str] | None,
    wanted: list[str],
) -> None:
    """A cast may be taken back in passing; of what was not judged, no comment is needless."""
    monkeypatch.setattr(analysis, "NARROWNESS", (level,))
    path = tmp_path / "train.py"
    path.write_text(text, encoding="utf-8")
    assert [finding.name for finding in check([path]).findings] == wanted
