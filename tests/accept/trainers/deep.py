"""A loop with DeepSpeed's engine, ZeRO stage 1, which finds its own last checkpoint."""

import sys
import time

import deepspeed
import torch

from heliostat.torchrun import checkpoints, leave, log, stopping

deepspeed.init_distributed("gloo")
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
config = {
    "train_micro_batch_size_per_gpu": 4,
    "optimizer": {"type": "Adam", "params": {"lr": 1e-2, "torch_adam": True}},
    "zero_optimization": {"stage": 1},
    "zero_allow_untested_optimizer": True,
}
engine, _, _, _ = deepspeed.initialize(model=net, model_parameters=net.parameters(), config=config)
_, saved = engine.load_checkpoint(checkpoints())
for step in range(saved["step"] if saved else 0, 24):
    time.sleep(float(sys.argv[1]))
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(2 * step + engine.global_rank))
    loss = torch.nn.functional.mse_loss(engine(x), x.sum(1, keepdim=True))
    engine.backward(loss)
    engine.step()
    log(step + 1, loss=loss.detach())
    stops = stopping(step + 1)
    if (step + 1) % 4 == 0 or stops:
        engine.save_checkpoint(checkpoints(), client_state={"step": step + 1})
    if stops:
        leave(f"step {step + 1}")
