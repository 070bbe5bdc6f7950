"""A Trainer of Lightning, as its users write it."""

import os
import sys
import time

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from heliostat.torchrun import LightningCallback, checkpoints, last_checkpoint

PAUSE = float(sys.argv[1])


class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Dropout(0.1), torch.nn.Linear(16, 1))

    def training_step(self, batch, index):
        time.sleep(PAUSE)
        loss = torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, sync_dist=True)
        self.print("step", self.global_step + 1, flush=True)
        return loss

    def validation_step(self, batch, index):
        self.log("val_loss", torch.nn.functional.mse_loss(self.net(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


lightning.seed_everything(0)
x = torch.randn(64, 4)
data = TensorDataset(x, x.sum(1, keepdim=True))
trainer = lightning.Trainer(
    accelerator="cpu", devices=int(os.environ["LOCAL_WORLD_SIZE"]), num_nodes=int(os.environ["GROUP_WORLD_SIZE"]),
    max_epochs=6, log_every_n_steps=1, logger=False, enable_progress_bar=False,
    callbacks=[LightningCallback(), ModelCheckpoint(checkpoints(), save_top_k=-1)],
)  # fmt: skip
trainer.fit(Model(), DataLoader(data, 8, shuffle=True), DataLoader(data, 8), ckpt_path=last_checkpoint())
