"""A Trainer of transformers, as its users write it."""

import sys
import time

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from heliostat.torchrun import HuggingFaceCallback, checkpoints, last_checkpoint

PAUSE = float(sys.argv[1])


class Texts(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, at):
        time.sleep(PAUSE / 4)
        tokens = (torch.arange(8) * (at % 7 + 1) + at) % 32
        return {"input_ids": tokens, "labels": tokens}


torch.manual_seed(0)
model = GPT2LMHeadModel(
    GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
)
args = TrainingArguments(
    checkpoints(), max_steps=24, per_device_train_batch_size=4, logging_steps=1, save_steps=4, save_total_limit=2, eval_steps=8,
    eval_strategy="steps", learning_rate=1e-2, report_to="none", use_cpu=True, disable_tqdm=True,
)  # fmt: skip
trainer = Trainer(model, args, train_dataset=Texts(), eval_dataset=Texts(), callbacks=[HuggingFaceCallback()])
trainer.train(resume_from_checkpoint=last_checkpoint())
