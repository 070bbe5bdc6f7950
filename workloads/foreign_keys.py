"""Names of other tools for the keys of a train config, and what stands in their place; docs/migrating.md prints the table."""

OUT = "leave it out"
WORDS: dict[str, str] = {
    "batch_size, train_batch_size": "write global_batch, the samples of a step over all workers",
    "per_device_train_batch_size, per_gpu_train_batch_size": "write global_batch, that number times workers and accumulation",
    "gradient_accumulation_steps, accumulate_grad_batches, grad_accum_steps, grad_accum": "write micro_batch, the samples that "
    "a worker computes at once: the gradients of a step are accumulated over its share of global_batch",
    "per_device_eval_batch_size, eval_batch_size, val_batch_size": f"{OUT}: an evaluation takes batches like those of a step",
    "max_epochs, num_train_epochs, num_epochs, n_epochs": "write epochs",
    "max_steps, num_steps, total_steps, train_steps, max_iters, num_iterations": "write steps",
    "min_epochs, min_steps": f"{OUT}: only early_stopping or a callback ends a run before its epochs or steps",
    "limit_train_batches, overfit_batches, steps_per_epoch": "write steps, such as 20; the metrics of the train split are in "
    "metrics.jsonl (loss)",
    "fast_dev_run, num_sanity_val_steps": f"{OUT}: each run tries a few samples first, and --dry-run does nothing else",
    "eval_steps, val_check_interval, eval_interval, eval_every, check_val_every_n_epoch, validation_freq, eval_strategy, "
    "evaluation_strategy": "write evaluate_every, in steps",
    "limit_val_batches, eval_iters, validation_steps, max_eval_samples": "write evaluate_samples",
    "patience, early_stopping_patience": "write early_stopping: {patience: 5}, in evaluations",
    "early_stopping_threshold": "write early_stopping: {patience: 5, min_delta: 0.001}",
    "monitor, metric_for_best_model, metrics": "write metric, one that the task has",
    "greater_is_better, mode": "write what is better beside the name: metric: {cost: lower}",
    "load_best_model_at_end": f"{OUT}: the best checkpoint is the one that is tested, exported and used by predict",
    "save_steps, save_every, every_n_train_steps, checkpoint_interval, save_strategy, save_interval": "write checkpoint_every, "
    "in steps, or checkpoint_seconds",
    "save_total_limit, max_to_keep": "write keep: {last: 2}",
    "save_top_k, save_best_only": "write keep: {best: 1}",
    "resume_from_checkpoint, resume, ckpt_path": f"{OUT}: the same command resumes the run of that name; weights of another "
    "run are start_from",
    "output_dir, default_root_dir, save_dir, checkpoint_dir, log_dir, logging_dir": "write storage, the folder of all runs, "
    "and name, that of this one",
    "run_name, experiment_name": "write name",
    "logging_steps, log_every_n_steps, log_interval, log_freq": "write log_every, in steps",
    "report_to, logger, loggers, log_with": "write tracking, such as [tensorboard, mlflow, wandb]",
    "project, wandb_project": "write tracking: [{wandb: {project: digits}}]",
    "learning_rate, lr0, base_lr, init_lr": "write optimizer.lr",
    "optim, optimizer_type, optimizer_name, optimizer.name, optimizer.class": "write optimizer.type",
    "momentum, nesterov, eps, adam_epsilon, amsgrad": "write optimizer.options, such as {momentum: 0.9}",
    "betas, adam_beta1, adam_beta2": "write optimizer.beta1 and optimizer.beta2",
    "scheduler, lr_scheduler, lr_scheduler_type, lr_schedule": "write optimizer.schedule",
    "optimizer.scheduler": "write optimizer.schedule",
    "lr_scheduler_kwargs": "write optimizer.schedule_options",
    "warmup, warmup_ratio, num_warmup_steps, warmup_epochs, warmup_iters": "write optimizer.warmup_steps, a number of steps",
    "min_lr, eta_min, end_lr": "write optimizer.final_lr, a share of lr",
    "gradient_clip_val, max_grad_norm, grad_clip, clip_grad_norm, clip_grad, clipnorm, gradient_clip": "write "
    "optimizer.clip_norm (1.0 by default; null: none)",
    "clipvalue, clip_grad_value": "write optimizer.clip_value",
    "use_ema, ema_decay": "write optimizer.ema, the decay, such as 0.999",
    "freeze_backbone, unfreeze_at": "write optimizer.freeze, a list of patterns, and optimizer.freeze_steps",
    "bf16, fp16, amp, use_amp, mixed_precision, dtype, torch_dtype": "write precision: bf16, fp16 or fp32",
    "random_state, random_seed, manual_seed, data_seed": "write seed",
    "deterministic, full_determinism, benchmark": f"{OUT}: a run on CPUs is exact; for GPUs call "
    "torch.use_deterministic_algorithms(True) in the module of the task",
    "accelerator, device, gpus, num_gpus, n_gpu, use_cpu, no_cuda, gpu": "write resources: {gpu: 1}, of each worker, or 0",
    "devices, num_nodes, nnodes, nproc_per_node, world_size, num_processes": "write workers, on all nodes together; each takes "
    "one GPU where there are GPUs",
    "strategy, distributed_backend, ddp, fsdp, deepspeed": "write parallelism: ddp or fsdp",
    "ddp_find_unused_parameters": "write find_unused_parameters",
    "gradient_checkpointing, use_gradient_checkpointing": "write activation_checkpointing",
    "torch_compile, jit_compile, compile_model": "write compile",
    "num_workers, dataloader_num_workers, pin_memory, dataloader_pin_memory, persistent_workers, prefetch_factor": f"{OUT}: "
    "samples are read from memory-mapped shards, without other processes",
    "dataloader_drop_last": "write drop_last",
    "shuffle": f"{OUT}: the train split is shuffled in each epoch, in another order, by the seed",
    "data_dir, data_path, train_file, train_data, dataset_name": "write dataset: {source: ..., options: {path: ...}}",
    "test_size, val_split, validation_split": "write dataset.options.split (docs/data.md)",
    "transform, transforms, augmentation, collate_fn": "write it into the source, or, if it is random, into the loss of a task "
    "of your own (if model.training)",
    "sampler, sample_weight, sample_weights, class_weight, class_weights, pos_weight": "weigh the samples in the loss of a "
    "task of your own: each is read once an epoch",
    "label_smoothing, label_smoothing_factor": "write model.label_smoothing of image-classification, or the loss of a task of "
    "your own",
    "dropout": "write model.dropout",
    "hidden_size, num_layers, n_layers": "write the task's own options into model",
    "pretrained, weights, checkpoint": "write start_from, or the task's own options into model",
    "profiler, detect_anomaly": "write a callback with every_rank = True that starts torch.profiler (docs/training.md), or "
    "train with --in-process",
    "verbose, disable_tqdm, enable_progress_bar": f"{OUT}: --verbose and --json are options of the command",
    "enable_checkpointing, enable_model_summary, do_train, do_eval, overwrite_output_dir": OUT,
    "trainer, training, training_args, training_arguments, hyperparameters": "write its keys without it, at the top level",
    "push_to_hub, hub_model_id": f"{OUT}: heliostat model export RUN --to hf writes the folder",
}  # fmt: skip
"""What to do, by the names that other tools have for it."""
FOREIGN = {name: fix for names, fix in WORDS.items() for name in names.split(", ")}
"""The same by each name."""
PRECISIONS = {
    **dict.fromkeys(("bf16-mixed", "bfloat16", "bf16-true", "mixed_bfloat16"), "bf16"),
    **dict.fromkeys(("16", "16-mixed", "fp16-mixed", "float16", "half", "16-true", "mixed_float16"), "fp16"),
    **dict.fromkeys(("32", "32-true", "float32", "full", "no", "tf32"), "fp32"),
}
"""Values of `precision` in other tools, and ours; weights are float32 with all of them."""
