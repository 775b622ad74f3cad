# Shape: two optimizers, and unscale_ of the other one before the clip.
import torch
from torch import nn

body = nn.Linear(4, 8).cuda()
head = nn.Linear(8, 2).cuda()
body_optimizer = torch.optim.SGD(body.parameters(), lr=0.1)
head_optimizer = torch.optim.SGD(head.parameters(), lr=0.01)
scaler = torch.amp.GradScaler("cuda")

for step in range(3):
    x = torch.randn(16, 4, device="cuda")
    body_optimizer.zero_grad()
    head_optimizer.zero_grad()
    with torch.autocast("cuda"):
        loss = nn.functional.cross_entropy(head(body(x).relu()), (x[:, 0] > 0).long())
    scaler.scale(loss).backward()
    scaler.unscale_(head_optimizer)
    nn.utils.clip_grad_norm_(body.parameters(), 1.0)  # error: [mismatched-optimizer]
    scaler.step(body_optimizer)
    scaler.step(head_optimizer)
    scaler.update()
    print(step, loss.item())
