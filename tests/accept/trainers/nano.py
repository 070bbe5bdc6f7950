"""A loop like nanoGPT's: a configuration at the top, an out_dir, accumulation without synchronization, ckpt.pt."""

import os
import sys
import time

import torch
from torch.distributed import destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel as DDP  # noqa: N817

from heliostat.torchrun import checkpoints, last_checkpoint, log

out_dir, max_iters, eval_interval, accumulation = checkpoints(), 24, 4, 2
ddp = int(os.environ.get("RANK", -1)) != -1
assert ddp
init_process_group(backend="gloo")
rank, local_rank, world = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
assert local_rank < int(os.environ["LOCAL_WORLD_SIZE"])
torch.manual_seed(1337)
model = torch.nn.Sequential(torch.nn.Embedding(32, 16), torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 32))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
iter_num = 0
if last := last_checkpoint():
    checkpoint = torch.load(last, map_location="cpu")
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    iter_num = checkpoint["iter_num"]
model = DDP(model)


def get_batch(at):
    generator = torch.Generator().manual_seed(at * world + rank)
    x = torch.randint(32, (4, 8), generator=generator)
    return x, (x * 3 + 1) % 32


while iter_num < max_iters:
    time.sleep(float(sys.argv[1]))
    for micro_step in range(accumulation):
        model.require_backward_grad_sync = micro_step == accumulation - 1
        x, y = get_batch(iter_num * accumulation + micro_step)
        loss = torch.nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten()) / accumulation
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    iter_num += 1
    log(iter_num, loss=loss * accumulation)
    if rank == 0:
        print(f"iter {iter_num}: loss {loss.item() * accumulation:.4f}", flush=True)
    if rank == 0 and iter_num % eval_interval == 0:
        checkpoint = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict(), "iter_num": iter_num}
        torch.save(checkpoint, os.path.join(out_dir, f"ckpt-{iter_num}.pt"))
destroy_process_group()
