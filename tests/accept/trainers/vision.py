"""A loop like torchvision's reference for classification: its helpers' initialization, a checkpoint an epoch, and --resume."""

import argparse
import os
import time

import torch
import torch.distributed as dist
import torchvision
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from heliostat.torchrun import checkpoints, last_checkpoint, log

parser = argparse.ArgumentParser()
parser.add_argument("pause", type=float)
parser.add_argument("--output-dir", default=checkpoints())
parser.add_argument("--resume", default=last_checkpoint())
args = parser.parse_args()
dist.init_process_group("gloo", init_method="env://", world_size=int(os.environ["WORLD_SIZE"]), rank=int(os.environ["RANK"]))
torch.manual_seed(0)
data = torchvision.datasets.FakeData(32, (3, 32, 32), 4, torchvision.transforms.ToTensor())
sampler = DistributedSampler(data)
loader = DataLoader(data, 4, sampler=sampler)
model = torchvision.models.squeezenet1_1(num_classes=4, dropout=0.0)
model = DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.0002, momentum=0.9)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
start = 0
if args.resume:
    saved = torch.load(args.resume, map_location="cpu", weights_only=False)
    model.module.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    schedule.load_state_dict(saved["lr_scheduler"])
    start = saved["epoch"] + 1
for epoch in range(start, 5):
    sampler.set_epoch(epoch)
    for at, (images, labels) in enumerate(loader):
        time.sleep(args.pause)
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log(epoch * len(loader) + at + 1, loss=loss, lr=schedule.get_last_lr()[0], epoch=epoch)
    schedule.step()
    if dist.get_rank() == 0:
        saved = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        torch.save({**saved, "lr_scheduler": schedule.state_dict(), "args": args}, f"{args.output_dir}/model_{epoch}.pth")
dist.destroy_process_group()
