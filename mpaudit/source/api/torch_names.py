"""The names in PyTorch of scalers, regions and optimizers, old and new."""

from __future__ import annotations

import re

LEGACY_SCALERS = (
    "torch.cuda.amp.GradScaler",
    "torch.cuda.amp.grad_scaler.GradScaler",
    "torch.cpu.amp.GradScaler",
    "torch.cpu.amp.grad_scaler.GradScaler",
)
SCALERS = (
    "torch.amp.GradScaler",
    "torch.amp.grad_scaler.GradScaler",
    "torch.GradScaler",
)
SHARDED_SCALERS = (
    "torch.distributed.fsdp.sharded_grad_scaler.ShardedGradScaler",
    "torch.distributed.fsdp.ShardedGradScaler",
)
LEGACY_AUTOCASTS = {
    "torch.cuda.amp.autocast": "cuda",
    "torch.cuda.amp.autocast_mode.autocast": "cuda",
    "torch.cpu.amp.autocast": "cpu",
    "torch.cpu.amp.autocast_mode.autocast": "cpu",
}
AUTOCASTS = ("torch.autocast", "torch.amp.autocast", "torch.amp.autocast_mode.autocast")
NOT_OPTIMIZERS = ("torch.optim.lr_scheduler", "torch.optim.swa_utils")
SAVES = ("save", "save_checkpoint", "save_on_master")
"""What functions and methods are called that write a checkpoint, of PyTorch's and of projects' own."""
LIKE_SCALER = re.compile(r"scal|amp", re.IGNORECASE)
"""What a text contains that may speak of a scaler or its state."""


def makes_optimizer(name: str) -> bool:
    """Whether calling `name` makes an optimizer."""
    return name.startswith("torch.optim.") and not name.startswith(NOT_OPTIMIZERS)
