"""A loop like timm's train.py: its initialization, optimizer, scheduler and saver of checkpoints."""

import sys
import time
from argparse import Namespace

import timm
import torch
from timm.models import resume_checkpoint
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import CheckpointSaver, init_distributed_device, random_seed, reduce_tensor
from torch.nn.parallel import DistributedDataParallel

from heliostat.torchrun import checkpoints, last_checkpoint, log

args = Namespace(model="vit", device="cpu", dist_backend="gloo", dist_url="env://")
init_distributed_device(args)
assert (args.distributed, args.world_size) == (True, 2)
random_seed(0, 0)
model = timm.create_model(
    "vit_tiny_patch16_224", img_size=32, patch_size=16, embed_dim=24, depth=1, num_heads=2, num_classes=4, drop_rate=0.0
)
optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3)
start = 0
if last := last_checkpoint():
    start = resume_checkpoint(model, last, optimizer=optimizer, log_info=args.rank == 0)
model = DistributedDataParallel(model)
schedule = CosineLRScheduler(optimizer, t_initial=6)
schedule.step(start)
saver = CheckpointSaver(model.module, optimizer, args, checkpoint_dir=checkpoints(), decreasing=True, max_history=2)
for epoch in range(start, 6):
    for at in range(4):
        time.sleep(float(sys.argv[1]))
        generator = torch.Generator().manual_seed(1000 * epoch + 10 * at + args.rank)
        images, labels = torch.randn(4, 3, 32, 32, generator=generator), torch.randint(4, (4,), generator=generator)
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log(epoch * 4 + at + 1, loss=reduce_tensor(loss.detach(), 2), epoch=epoch)
    schedule.step(epoch + 1)
    if args.rank == 0:
        saver.save_checkpoint(epoch, metric=loss.item())
