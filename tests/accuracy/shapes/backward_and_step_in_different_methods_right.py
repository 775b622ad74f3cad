# Shape: backward and step are different methods.
import torch
from torch import nn


class Trainer:
    def __init__(self, model):
        self.model = model.cuda()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.scaler = torch.amp.GradScaler("cuda")

    def loss_of(self, x, y):
        with torch.autocast("cuda"):
            return nn.functional.mse_loss(self.model(x), y)

    def backward(self, loss):
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()

    def step(self):
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def fit(self, batches):
        for x, y in batches:
            loss = self.loss_of(x.cuda(), y.cuda())
            self.backward(loss)
            self.step()


if __name__ == "__main__":
    Trainer(nn.Linear(4, 2)).fit([(torch.randn(8, 4), torch.randn(8, 2)) for _ in range(3)])
