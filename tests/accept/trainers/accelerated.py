"""A loop with accelerate, and none of its launcher."""

import sys
import time

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader, TensorDataset

from heliostat.torchrun import checkpoints, last_checkpoint, leave, log, stopping

accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2, accelerator.state
set_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1))
x = torch.randn(384, 4)
loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), 8, shuffle=True)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
last = last_checkpoint()
step = int(last.rpartition("-")[2]) if last else 0
for inputs, targets in accelerator.skip_first_batches(loader, step):
    if last:  # in the loop, as the loader draws a random number when it begins
        accelerator.load_state(last)
        last = None
    time.sleep(float(sys.argv[1]))
    loss = torch.nn.functional.mse_loss(model(inputs), targets)
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    step += 1
    log(step, loss=accelerator.reduce(loss.detach(), "mean"))
    accelerator.print("step", step, flush=True)
    stops = stopping(step)
    if step % 4 == 0 or stops:
        accelerator.save_state(f"{checkpoints()}/state-{step}")
    if stops:
        leave(f"step {step}")
