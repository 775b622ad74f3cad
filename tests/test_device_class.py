"""`torch.device` where the CPU stands in for GPUs: it takes a number, and is torch's in all else."""

from __future__ import annotations

import copy
import copyreg
import functools
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from watched import ROOT, traced  # noqa: E402

from mpaudit.runtime.record import Attempts  # noqa: E402
from mpaudit.runtime.trace import Reader  # noqa: E402

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
TORCHS = torch.device


def test_a_number_alone_names_a_gpu(tmp_path: Path) -> None:
    with traced(tmp_path / "run.mpa"):
        assert torch.device(0) == TORCHS("cuda", 0)
        assert torch.device(device=1) == TORCHS("cuda:1")
        layer = nn.Linear(2, 2).to(torch.device(0))
        assert str(layer.weight.device) == "cuda:0"
    assert torch.device is TORCHS
    assert TORCHS not in copyreg.dispatch_table


def test_all_else_is_as_torchs(tmp_path: Path) -> None:
    plain = TORCHS("cuda", 0)
    written = pickle.dumps(plain)
    with traced(tmp_path / "run.mpa"):
        made = torch.device("cuda", 0)
        assert type(made) is TORCHS
        assert isinstance(made, torch.device) and isinstance(made, torch.device | str)
        assert not isinstance("cuda", torch.device)
        assert type(made) == torch.device  # noqa: E721 - as libraries ask
        assert type(made) in {torch.device} and issubclass(type(made), torch.device)
        assert not issubclass(str, torch.device)
        assert repr(torch.device) == repr(TORCHS) and torch.device.__doc__ == TORCHS.__doc__
        assert torch.device(type="cpu", index=0) == TORCHS("cpu:0")
        assert pickle.dumps(made) == written and pickle.loads(written) == plain
        assert pickle.loads(pickle.dumps(torch.device)) is torch.device
        assert copy.deepcopy({"device": made}) == {"device": plain}
        kept = io.BytesIO()
        torch.save({"device": made}, kept)
        kept.seek(0)
        assert torch.load(kept, weights_only=True) == {"device": plain}

        @functools.singledispatch
        def kind(value: object) -> str:
            return "other"

        kind.register(torch.device)(lambda value: "device")
        assert (kind(made), kind("cuda")) == ("device", "other")
        for wrong in (-1, "nope", 1.5, True, None):
            with pytest.raises((RuntimeError, TypeError)) as told:
                torch.device(wrong)
            with pytest.raises(type(told.value)) as torchs:
                TORCHS(wrong)
            assert str(told.value) == str(torchs.value)


COMPILED = """
import torch


@torch.jit.script
def scripted(x: torch.Tensor, device: torch.device):
    return x.to(device) + torch.ones(2, device=torch.device("cpu"))


@torch.compile(fullgraph=True, backend="aot_eager")
def compiled(x):
    assert isinstance(x.device, torch.device)
    return x + torch.ones(2, device=torch.device("cpu"))


print(scripted(torch.ones(2), torch.device("cpu")).tolist(), compiled(torch.ones(2)).tolist())
"""


@pytest.mark.slow
def test_compilers_know_it(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(COMPILED)
    done = subprocess.run(
        [sys.executable, "-m", "mpaudit", "run", "--device", "cpu", "train.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[2.0, 2.0] [2.0, 2.0]\n", done.stderr


LOADED = """
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

torch.manual_seed(0)
sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": 50, "n_positions": 16}
GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).save_pretrained("saved")
model = GPT2LMHeadModel.from_pretrained("saved", device_map="auto")
print(model.device)
data = [{"input_ids": row, "labels": row} for row in torch.randint(0, 50, (8, 12))]
arguments = TrainingArguments(
    "out", max_steps=2, per_device_train_batch_size=4, fp16=True, optim="sgd", learning_rate=0.1,
    report_to=[], save_strategy="no", disable_tqdm=True,
)
Trainer(model=model, args=arguments, train_dataset=data).train()
"""


@pytest.mark.slow
def test_a_model_is_loaded_to_the_gpu_that_there_is(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    (tmp_path / "train.py").write_text(LOADED)
    done = subprocess.run(
        [sys.executable, "-m", "mpaudit", "run", "--device", "cpu", "-o", "run.mpa", "train.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "cuda:0"
    run = Reader(tmp_path / "run.mpa")
    assert run.meta["probe_errors"] == []
    assert run.attempts() == [Attempts(0, 0, 1, True, 65536.0)]
    assert run.dtypes()["lm_head"]["output"] == ["float16"]
