"""Short trials: Heliostat against Ray Tune's two ways and Optuna alone; all train by the same loop, in turn, in one run.

python -m tests.benchmarks.sweep [REPETITIONS] [SECONDS] [TRIALS]

Each trial makes ten steps that take ``SECONDS`` in all, reports five times, and evaluates on breast-cancer. The baselines
call the very same `Loop`: (a) Tune with a TorchTrainer in each trial, as Ray's documentation shows; (b) Tune with a function
trainable, with and without ``reuse_actors``; (c) Optuna with a process pool. Ray is started once for each; starting it is
not counted.
"""

import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from tests.benchmarks import ROOT, spread

STEPS, EVERY = 10, 2
WAYS = ("heliostat", "tune-reuse", "tune", "optuna", "tune-train")
SLOW, FEW = ("tune", "tune-train"), 16
"""The ways that take seconds more for each trial get fewer of them: what is compared is a trial's time."""


def config(seconds: float) -> dict[str, Any]:
    """The train config of all trials."""
    return {
        "name": "bench", "task": "tests.benchmarks.sweep_task:Timed", "dataset": {"source": "breast-cancer"}, "steps": STEPS,
        "evaluate_every": EVERY, "checkpoint_every": STEPS, "log_every": STEPS, "model": {"seconds": seconds / STEPS},
        "resources": {"cpu": 1, "gpu": 0},
    }  # fmt: skip


def learn(storage: str, number: str, lr: float, seconds: float, report: Any = lambda metrics: None) -> float:
    """One trial by the loop itself."""
    from heliostat.folder import Folder
    from heliostat.tuning.space import assign
    from heliostat.workloads.config import TrainConfig
    from heliostat.workloads.plan import prepare
    from heliostat.workloads.training.distributed import Ranks
    from heliostat.workloads.training.loop import Loop

    data = {**assign(config(seconds), {"optimizer.lr": lr}), "name": number, "storage": storage}
    plan = prepare(TrainConfig.model_validate(data))
    record, _ = plan.commit()
    outcome = Loop(Folder.at(plan.uri), record, Ranks.of_this_process(cuda=False), time.time(), report).run()
    return float(outcome.metrics["validation"]["loss"] or 0.0)


def heliostat(storage: str, trials: int, seconds: float) -> None:
    """A sweep of ours."""
    import contextlib

    from heliostat.tuning.config import SweepConfig
    from heliostat.tuning.drive import drive
    from heliostat.tuning.plan import plan_sweep

    sweep = SweepConfig.model_validate({
        "name": "sweep", "train": config(seconds), "space": {"optimizer.lr": {"loguniform": [1e-4, 1e-1]}}, "trials": trials,
        "algorithm": "random", "scheduler": "none", "storage": storage,
    })  # fmt: skip
    with contextlib.redirect_stdout(sys.stderr):
        result = drive(plan_sweep(sweep, [{"CPU": 2.0}]))
    assert result.states == {"finished": trials}


def tune(storage: str, trials: int, seconds: float, reuse: bool) -> None:
    """Tune with a function trainable."""
    from ray import tune as ray_tune

    def trial(params: dict[str, Any]) -> None:
        name = ray_tune.get_context().get_trial_id()
        learn(storage, str(name), params["lr"], seconds, lambda metrics: ray_tune.report(metrics))

    results = ray_tune.Tuner(
        ray_tune.with_resources(trial, {"CPU": 1}),
        param_space={"lr": ray_tune.loguniform(1e-4, 1e-1)},
        tune_config=ray_tune.TuneConfig(num_samples=trials, metric="loss", mode="min", reuse_actors=reuse),
        run_config=ray_tune.RunConfig(storage_path=f"{storage}/tune", verbose=0),
    ).fit()
    assert len(results) == trials
    assert not results.errors


def tune_train(storage: str, trials: int, seconds: float) -> None:
    """Tune with a TorchTrainer in each trial."""
    import ray.train
    import ray.train.torch
    from ray import tune as ray_tune
    from ray.tune.integration.ray_train import TuneReportCallback

    def loop(params: dict[str, Any]) -> None:
        learn(storage, params["name"], params["lr"], seconds, lambda metrics: ray.train.report(metrics))

    def trial(params: dict[str, Any]) -> None:
        name = str(ray_tune.get_context().get_trial_id())
        ray.train.torch.TorchTrainer(
            loop,
            train_loop_config={**params, "name": name},
            scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
            run_config=ray.train.RunConfig(name=name, storage_path=f"{storage}/train", callbacks=[TuneReportCallback()]),
        ).fit()

    results = ray_tune.Tuner(
        # A driver that holds a CPU would deadlock on two.
        ray_tune.with_resources(trial, {"CPU": 0.01}),
        param_space={"lr": ray_tune.loguniform(1e-4, 1e-1)},
        tune_config=ray_tune.TuneConfig(num_samples=trials, max_concurrent_trials=2),
        run_config=ray_tune.RunConfig(storage_path=f"{storage}/tune", verbose=0),
    ).fit()
    assert len(results) == trials
    assert not results.errors


def optuna_alone(storage: str, trials: int, seconds: float) -> None:
    """Optuna's ask and tell with two processes, each of which has torch loaded before the clock starts."""
    from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
    from multiprocessing import get_context

    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        running: dict[Any, Any] = {}
        for _ in range(trials):
            if len(running) == 2:
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    study.tell(running.pop(done), done.result())
            asked = study.ask()
            lr = asked.suggest_float("lr", 1e-4, 1e-1, log=True)
            running[pool.submit(learn, storage, f"t{asked.number}", lr, seconds)] = asked
        for done, asked in running.items():
            study.tell(asked, done.result())


def once(way: str, trials: int, seconds: float) -> None:
    """Run one way in this process, and print how long it took."""
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_CHDIR_TO_TRIAL_DIR="0", RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.5")
    with tempfile.TemporaryDirectory() as storage:
        if way != "optuna":
            import ray

            env = {"env_vars": {"PYTHONPATH": str(ROOT)}}
            ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="error", runtime_env=env,
                     object_store_memory=200 << 20, include_dashboard=True)  # fmt: skip
            # All begin with workers that are there already.
            ray.get([ray.remote(num_cpus=0.5)(_warm).remote() for _ in range(4)])
        learn(storage, "build", 1e-3, 0.0)  # the dataset is there
        began = time.perf_counter()
        if way == "heliostat":
            heliostat(storage, trials, seconds)
        elif way == "optuna":
            optuna_alone(storage, trials, seconds)
        elif way == "tune-train":
            tune_train(storage, trials, seconds)
        else:
            tune(storage, trials, seconds, reuse=way == "tune-reuse")
        print(f"took {time.perf_counter() - began:.3f}", flush=True)
        os._exit(0)  # stopping Ray is not counted, and what it prints is of no use


def _warm() -> None:
    import torch  # noqa: F401


def timed(way: str, trials: int, seconds: float) -> float:
    """Seconds that a way takes, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.sweep", way, str(trials), str(seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    took = [line for line in done.stdout.splitlines() if line.startswith("took ")]
    if not took:
        sys.exit(f"{way} failed:\n{done.stderr[-3000:]}")
    return float(took[0].split()[1])


def main() -> None:
    """Print the comparison."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    cases = [(float(sys.argv[2]), int(sys.argv[3]))] if len(sys.argv) > 3 else [(1.0, 64), (0.1, 200)]
    for seconds, trials in cases:
        per_trial: dict[str, list[float]] = {way: [] for way in WAYS}
        for repetition in range(repetitions):
            # The order alternates, so that a machine that becomes slower favours neither.
            for way in WAYS if repetition % 2 == 0 else reversed(WAYS):
                count = min(trials, FEW) if way in SLOW else trials
                per_trial[way].append(timed(way, count, seconds) / count)
                print(f"{repetition + 1}: {way} {per_trial[way][-1]:.3f} s a trial, {count} trials", file=sys.stderr)
        print(f"{trials} trials of {seconds} s, two at once, {repetitions} repetitions: median (least to most)")
        for way in WAYS:
            overhead = [1000 * (value - seconds / 2) for value in per_trial[way]]
            ratios = [value / ours for value, ours in zip(per_trial[way], per_trial["heliostat"], strict=True)]
            print(f"  {way:<11} seconds a trial {spread(per_trial[way], 3)}, overhead in ms {spread(overhead, 0)}, "
                  f"times heliostat's {spread(ratios)}")  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] in WAYS:
        once(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
    main()
