"""The training loops that are watched: a transformer shaped as GPT-2 small, and a ResNet-18."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

Phase = Callable[[str], Any]
"""Makes the context that a part of a step runs in: "forward", "backward" or "update"."""


class Block(nn.Module):
    """Two convolutions and what goes around them, as in torchvision: activations are in place."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.downsample = None
        if stride != 1 or inside != outside:
            shorter = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.downsample = nn.Sequential(shorter, nn.BatchNorm2d(outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


def resnet(width: int = 64, depth: int = 2) -> nn.Module:
    """A ResNet of four stages of `depth` blocks; 64 and 2 are ResNet-18."""
    stages: list[nn.Module] = [
        nn.Conv2d(3, width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    inside = width
    for stage in range(4):
        outside = width << stage
        for number in range(depth):
            stages.append(Block(inside, outside, 2 if stage and not number else 1))
            inside = outside
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 100))


def gpt(width: int = 768, depth: int = 12, words: int = 50257) -> nn.Module:
    """GPT-2 of transformers, untrained; 768, 12 and 50257 are GPT-2 small, without its dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=words,
        n_embd=width,
        n_layer=depth,
        n_head=max(width // 64, 1),
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        use_cache=False,
    )
    return GPT2LMHeadModel(config)


@dataclass(slots=True)
class Loop:
    """A correct mixed-precision loop around a model; every step is one optimizer step.

    One that is not `mixed` computes in float32.
    """

    model: nn.Module
    batch: tuple[torch.Tensor, torch.Tensor]
    device: str = "cpu"
    mixed: bool = True
    losses: list[torch.Tensor] = field(default_factory=list)
    optimizer: Any = None
    scaler: Any = None
    watcher: Any = None
    """What a tool keeps for the loop, so that it lives as long."""

    def __post_init__(self) -> None:
        self.model.to(self.device).train()
        self.batch = tuple(each.to(self.device) for each in self.batch)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.scaler = torch.amp.GradScaler(self.device, init_scale=1024.0, enabled=self.mixed)

    def step(self, phase: Phase = lambda _: nullcontext()) -> None:
        """One step of training; nothing in it waits for the device but the scaler."""
        samples, labels = self.batch
        self.optimizer.zero_grad()
        dtype = torch.bfloat16 if self.device == "cpu" else torch.float16
        with phase("forward"), torch.autocast(self.device, dtype=dtype, enabled=self.mixed):
            out = self.model(samples)
            out = out if isinstance(out, torch.Tensor) else out["logits"]
            loss = nn.functional.cross_entropy(out.flatten(0, -2), labels.flatten())
        with phase("backward"):
            self.scaler.scale(loss).backward()
        with phase("update"):
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.losses.append(loss.detach())


@dataclass(frozen=True, slots=True)
class Shape:
    """A model by name, and the sizes of it: `small` ones for what is only counted."""

    name: str
    small: bool = False

    def loop(self, device: str = "cpu", *, mixed: bool = True) -> Loop:
        """A loop that begins from the same numbers each time."""
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(1)

        def words(*shape: int, top: int) -> torch.Tensor:
            return torch.randint(top, shape, generator=generator)

        if self.name == "gpt2":
            size = {"width": 64, "depth": 2, "words": 500} if self.small else {}
            length, top = (32, 500) if self.small else (256, 50257)
            batch = words(2, length, top=top), words(2, length, top=top)
            return Loop(gpt(**size), batch, device, mixed)
        size = {"width": 8} if self.small else {}
        edge, count = (32, 4) if self.small else (128, 16)
        images = torch.randn(count, 3, edge, edge, generator=generator)
        return Loop(resnet(**size), (images, words(count, top=100)), device, mixed)


SHAPES = {"gpt2": "GPT-2 small", "resnet": "ResNet-18"}
"""Names of shapes, and what they are called in the table."""
