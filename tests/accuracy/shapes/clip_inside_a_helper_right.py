# Shape: the clip stands in a helper.
import torch
from torch import nn
from torch.amp import GradScaler, autocast


def limit(module, optimizer, scaler, limit_at=1.0):
    scaler.unscale_(optimizer)
    return nn.utils.clip_grad_norm_(module.parameters(), limit_at)


def train(model, batches):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = GradScaler("cuda")
    for x, y in batches:
        optimizer.zero_grad()
        with autocast("cuda"):
            loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        limit(model, optimizer, scaler)
        scaler.step(optimizer)
        scaler.update()


if __name__ == "__main__":
    pairs = [(torch.randn(8, 4, device="cuda"), torch.zeros(8, dtype=torch.long, device="cuda"))]
    train(nn.Linear(4, 2).cuda(), pairs)
