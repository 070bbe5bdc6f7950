"""A loop with Lightning's Fabric."""

import os
import sys
import time

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

from heliostat.torchrun import checkpoints, last_checkpoint, leave, log, stopping

local, nodes = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])
fabric = lightning.Fabric(accelerator="cpu", devices=local, num_nodes=nodes)
fabric.launch()
fabric.seed_everything(0)
model = torch.nn.Linear(4, 1)
model, optimizer = fabric.setup(model, torch.optim.Adam(model.parameters(), lr=1e-2))
x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
loader = fabric.setup_dataloaders(DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), 8, shuffle=True))
state = {"model": model, "optimizer": optimizer, "epoch": 0, "step": 0}
if last := last_checkpoint():
    fabric.load(last, state)
for _ in range(state["epoch"]):
    next(iter(loader))  # Fabric counts the epochs of the sampler itself, by the loops over the loader
for epoch in range(state["epoch"], 6):
    for inputs, targets in loader:
        time.sleep(float(sys.argv[1]))
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        state["step"] += 1
        log(state["step"], loss=fabric.all_reduce(loss.detach()), epoch=epoch)
    state["epoch"] = epoch + 1
    fabric.save(f"{checkpoints()}/epoch-{epoch + 1}.ckpt", state)
    if stopping(state["step"]):
        leave(f"epoch {epoch + 1}")
