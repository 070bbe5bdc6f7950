"""A script for torchrun that saves and resumes, and counts its steps on all ranks together."""

import socket
import sys
import time

import torch
import torch.distributed as dist

from heliostat.torchrun import resume, save

steps, every, code = map(int, sys.argv[1:])
dist.init_process_group("gloo")
print("runs in", socket.gethostname(), flush=True)
counts = {"total": 0}
for step in range(resume(counts=counts), steps):
    time.sleep(0.05)
    one = torch.ones(1)
    dist.all_reduce(one)
    counts["total"] += int(one)
    if dist.get_rank() == 0:
        print("step", step + 1, counts["total"], flush=True)
    save(step + 1, every=every, counts=counts)
print("total", counts["total"], flush=True)
dist.destroy_process_group()
sys.exit(code)
