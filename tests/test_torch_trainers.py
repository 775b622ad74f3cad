"""Trainers of libraries under `mpaudit run`: what their own hooks see, and the same bits without it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
from watched import ROOT

from mpaudit.runtime.record import Attempts
from mpaudit.runtime.trace import Reader

pytestmark = pytest.mark.slow

OWN = '''
import json

import torch


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    parts = value.values() if isinstance(value, dict) else value
    nested = isinstance(value, (dict, list, tuple))
    return [each for part in parts for each in tensors(part)] if nested else []


def follow(model):
    """Hooks of the script's own: type, output dtypes, largest magnitude and calls of each layer."""
    seen = {}

    def hook(name):
        def look(module, _, output):
            new = {"type": type(module).__name__, "output": [], "amax": 0.0, "calls": 0}
            row = seen.setdefault(name, new)
            for each in tensors(output):
                row["output"] = sorted({*row["output"], str(each.dtype).removeprefix("torch.")})
                row["amax"] = max(row["amax"], each.detach().float().abs().max().item())
            row["calls"] += 1

        return look

    for name, module in model.named_modules():
        module.register_forward_hook(hook(name))
    return seen


def tell(losses, seen, model):
    sums = [each.detach().double().sum().item().hex() for each in model.parameters()]
    print(json.dumps({"losses": losses, "seen": seen, "sums": sums}))
'''
ACCELERATE = """
import sys

import torch
from accelerate import Accelerator
from own import follow, tell
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        return {"logits": self.head(self.body(x))}


torch.manual_seed(0)
accelerator = Accelerator(
    mixed_precision=sys.argv[1], gradient_accumulation_steps=2, cpu=sys.argv[1] == "bf16"
)
x = torch.randn(64, 8)
y = (x[:, 0] > 0).long()
net = Net()
seen = follow(net)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(x, y), batch_size=8)
model, optimizer, loader = accelerator.prepare(net, optimizer, loader)
losses = []
for epoch in range(2):
    for inputs, labels in loader:
        with accelerator.accumulate(model):
            loss = nn.functional.cross_entropy(model(inputs)["logits"], labels)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item().hex())
tell(losses, seen, net)
"""
LIGHTNING = """
import sys

import lightning as L
import torch
from own import follow, tell
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Lit(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.head = nn.Linear(16, 2)
        self.loss = nn.CrossEntropyLoss()
        self.losses = []

    def training_step(self, batch, _):
        x, y = batch
        logits = self.head(self.body(x))
        loss = self.loss(logits, y)
        self.losses.append(loss.item().hex())
        return loss

    def on_after_backward(self):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


torch.manual_seed(0)
x = torch.randn(64, 8)
y = (x[:, 0] > 0).long()
model = Lit()
seen = follow(model)
trainer = L.Trainer(
    max_epochs=2,
    accelerator=sys.argv[2],
    devices=1,
    precision=sys.argv[1],
    accumulate_grad_batches=2,
    gradient_clip_val=1.0,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, DataLoader(TensorDataset(x, y), batch_size=8))
tell([trainer.precision, *model.losses], seen, model)
"""
TRANSFORMERS = """
import torch
from own import follow, tell
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

torch.manual_seed(0)
sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 50, "n_positions": 16}
model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
seen = follow(model)
ids = torch.randint(0, 50, (32, 12))
losses = []


class Losses(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(input_ids=inputs["input_ids"])
        logits = outputs["logits"].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, inputs["labels"].flatten())
        losses.append(loss.item().hex())
        return (loss, outputs) if return_outputs else loss


arguments = TrainingArguments(
    "out",
    max_steps=4,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=2,
    bf16=True,
    use_cpu=True,
    optim="sgd",
    learning_rate=0.1,
    report_to=[],
    save_strategy="no",
    logging_steps=1,
    disable_tqdm=True,
)
data = [{"input_ids": row, "labels": row} for row in ids]
trainer = Losses(model=model, args=arguments, train_dataset=data)
trainer.train()
logged = [each["loss"] for each in trainer.state.log_history if "loss" in each]
tell([losses, logged], seen, model)
"""


@dataclass(frozen=True)
class Seen:
    """What a script printed last, and what its trace holds; the trace is None for a plain run."""

    told: dict[str, Any]
    err: str
    run: Reader | None


def run(
    folder: Path, text: str, *arguments: str, watched: bool = True, apply: str | None = None
) -> Seen:
    """Run a script, with mpaudit or without."""
    (folder / "own.py").write_text(OWN)
    script = folder / "train.py"
    script.write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    mpaudit = ["-m", "mpaudit", "run", "--device", "cpu", "-o", "run.mpa"] if watched else []
    mpaudit += ["--apply", apply] if apply is not None else []
    done = subprocess.run(
        [sys.executable, *mpaudit, str(script), *arguments],
        cwd=folder,
        env={**environment, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    return Seen(told, done.stderr, Reader(folder / "run.mpa") if watched else None)


def flow(seen: Seen, *leaves: str) -> dict[str, list[str]]:
    """The output dtypes of some layers."""
    assert seen.run is not None
    return {path: seen.run.dtypes()[path]["output"] for path in leaves}


def agrees(seen: Seen) -> Reader:
    """The trace, which says of each layer what the script's own hooks say of it."""
    run = seen.run
    assert run is not None
    assert run.meta["probe_errors"] == []
    own = seen.told["seen"]
    layers = {each.path: each for each in run.layers()}
    assert {path: each.type for path, each in layers.items()} == {
        p: r["type"] for p, r in own.items()
    }
    assert {path: each.calls for path, each in layers.items()} == {
        p: r["calls"] for p, r in own.items()
    }
    assert {path: run.dtypes()[path]["output"] for path in layers} == {
        p: r["output"] for p, r in own.items()
    }
    largest: dict[str, float] = {}
    for row in run.statistics():
        if row.phase == "forward" and row.amax is not None:
            largest[row.layer] = max(largest.get(row.layer, 0.0), row.amax)
    assert largest == {path: row["amax"] for path, row in own.items()}
    return run


def wholes(seen: Seen) -> list[float]:
    """The mean loss of the two micro-batches of each step, as people see it."""
    told = [float.fromhex(each) for each in seen.told["losses"] if "0x" in each]
    return [(first + second) / 2 for first, second in zip(told[::2], told[1::2], strict=True)]


def test_accelerate_in_bfloat16(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    seen = run(tmp_path, ACCELERATE, "bf16")
    assert seen.told == run(tmp_path, ACCELERATE, "bf16", watched=False).told
    trace = agrees(seen)
    assert flow(seen, "", "body.0", "head") == {
        "": ["float32"],  # accelerate converts what comes out of the model it prepared
        "body.0": ["bfloat16"],
        "head": ["bfloat16"],
    }
    assert {each.calls_per_step for each in trace.layers()} == {2}
    assert trace.attempts() == [Attempts(0, 0, 7, True, None)]
    assert trace.meta["losses"]["means"] == pytest.approx(wholes(seen))
    assert trace.problems() == []


def test_accelerate_in_float16_on_the_emulated_gpu(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    seen = run(tmp_path, ACCELERATE, "fp16")
    trace = agrees(seen)
    assert flow(seen, "body.0", "head") == {"body.0": ["float16"], "head": ["float16"]}
    assert trace.attempts() == [Attempts(0, 0, 7, True, 65536.0)]
    assert trace.meta["losses"]["means"] == pytest.approx(wholes(seen), rel=1e-3)
    assert trace.problems() == []
    clip = "                accelerator.clip_grad_norm_(model.parameters(), 1.0)"
    wrong = clip.replace("accelerator", "nn.utils")
    mistaken = run(tmp_path, ACCELERATE.replace(clip, wrong), "fp16").run
    assert mistaken is not None
    (problem,) = mistaken.problems()
    assert problem.rule == "clip-before-unscale"
    assert (tmp_path / "train.py").read_text().splitlines()[problem.span.start.row - 1] == wrong


def test_lightning_in_bfloat16(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    seen = run(tmp_path, LIGHTNING, "bf16-mixed", "cpu")
    assert seen.told == run(tmp_path, LIGHTNING, "bf16-mixed", "cpu", watched=False).told
    trace = agrees(seen)
    assert [each.path for each in trace.layers()] == ["body", "body.0", "body.1", "head", "loss"]
    assert flow(seen, "body.0", "head", "loss") == {
        "body.0": ["bfloat16"],
        "head": ["bfloat16"],
        "loss": ["float32"],
    }
    assert {each.calls_per_step for each in trace.layers()} == {2}
    assert trace.attempts() == [Attempts(0, 0, 7, True, None)]
    assert trace.meta["losses"]["means"] == pytest.approx(wholes(seen))
    assert trace.problems() == []


def test_lightning_replaces_float16_on_a_cpu_and_uses_it_on_the_emulated_gpu(
    tmp_path: Path,
) -> None:
    pytest.importorskip("lightning")
    replaced = run(tmp_path, LIGHTNING, "16-mixed", "cpu")
    assert replaced.told["losses"][0] == "bf16-mixed"
    assert flow(replaced, "head") == {"head": ["bfloat16"]}
    assert replaced.run is not None
    assert replaced.run.problems() == []
    seen = run(tmp_path, LIGHTNING, "16-mixed", "auto")
    trace = agrees(seen)
    assert seen.told["losses"][0] == "16-mixed"
    assert flow(seen, "body.0", "head") == {"body.0": ["float16"], "head": ["float16"]}
    assert trace.attempts() == [Attempts(0, 0, 7, True, 65536.0)]
    assert trace.meta["losses"]["means"] == pytest.approx(wholes(seen), rel=1e-3)
    assert trace.problems() == []
    wrong = "        nn.utils.clip_grad_norm_(self.parameters(), 1.0)"
    mistaken = run(tmp_path, LIGHTNING.replace("        pass", wrong), "16-mixed", "auto").run
    assert mistaken is not None
    (problem,) = mistaken.problems()
    assert problem.rule == "clip-before-unscale"
    assert (tmp_path / "train.py").read_text().splitlines()[problem.span.start.row - 1] == wrong


def test_lightning_as_advised_is_compared_after_as_many_losses(tmp_path: Path) -> None:
    """What is told of before and after are the losses that the module computes itself."""
    pytest.importorskip("lightning")
    start = "precision=sys.argv[1],\n    accumulate_grad_batches=2,"
    scaler = (
        "plugins=[MixedPrecision('16-mixed', 'cuda', torch.amp.GradScaler(init_scale=2.0**26))],"
    )
    text = LIGHTNING.replace(start, scaler).replace(
        "import lightning as L",
        "import lightning as L\nfrom lightning.pytorch.plugins import MixedPrecision",
    )
    assert scaler in text
    plain = run(tmp_path, text, "16-mixed", "auto")
    assert plain.run is not None
    lost = sum(each.last + 1 - each.first for each in plain.run.attempts() if not each.applied)
    assert lost >= 3
    seen = run(tmp_path, text, "16-mixed", "auto", apply="12")
    assert "initial loss scale" in seen.err or "init_scale" in seen.err
    ours = [float.fromhex(each) for each in seen.told["losses"][1:]]
    theirs = [float.fromhex(each) for each in plain.told["losses"][1:]]
    assert ours != theirs
    before, after = re.findall(r"loss after 12 steps +(\S+) +(\S+)", seen.err)[0]
    assert (before, after) == (f"{theirs[11]:.4g}", f"{ours[11]:.4g}")
    assert re.search(rf"loss at last +\S+ +{re.escape(f'{ours[-1]:.4g}')}\n", seen.err)


def test_transformers_in_bfloat16(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    seen = run(tmp_path, TRANSFORMERS)
    assert seen.told == run(tmp_path, TRANSFORMERS, watched=False).told
    trace = agrees(seen)
    assert flow(seen, "lm_head", "transformer.h.1.mlp.c_fc", "transformer.ln_f") == {
        "lm_head": ["bfloat16"],
        "transformer.h.1.mlp.c_fc": ["bfloat16"],
        "transformer.ln_f": ["float32"],
    }
    for path in ("transformer.wte", "lm_head"):  # one weight, two layers
        assert trace.dtypes()[path]["parameter_grad"] == ["float32"]
    assert {each.calls_per_step for each in trace.layers()} == {2}
    assert trace.attempts() == [Attempts(0, 0, 3, True, None)]
    assert len(seen.told["losses"][0]) == 8
    assert trace.meta["losses"]["means"] == pytest.approx(seen.told["losses"][1], rel=1e-3)
    assert trace.problems() == []
    wrong = "        logits = outputs['logits'].flatten(0, 1).softmax(-1)"
    right = '        logits = outputs["logits"].flatten(0, 1)'
    mistaken = run(tmp_path, TRANSFORMERS.replace(right, wrong)).run
    assert mistaken is not None
    (problem,) = mistaken.problems()
    assert problem.rule == "softmax-before-cross-entropy"
    line = (tmp_path / "train.py").read_text().splitlines()[problem.span.start.row - 1]
    assert "cross_entropy(logits" in line
