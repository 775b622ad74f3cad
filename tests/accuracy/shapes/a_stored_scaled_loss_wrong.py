# Shape: the scaled loss is stored under a name.
import torch
from torch import nn

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).cuda()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
scaler = torch.amp.GradScaler("cuda")

for step in range(3):
    x = torch.randn(16, 4, device="cuda")
    optimizer.zero_grad()
    with torch.autocast("cuda"):
        loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
    scaled = scaler.scale(loss)
    loss.backward()  # error: [unscaled-backward]
    scaler.step(optimizer)
    scaler.update()
    print(step, loss.item())
