"""The contract with the private parts of Ray Train: a new Ray that changes them fails here and not in a run."""

import dataclasses
import inspect
import re
import time
from pathlib import Path

import pytest
import ray
import ray._private.worker
import ray.train.v2._internal.execution.controller.controller as controller
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.execution.failure_handling import FailureDecision, FailurePolicy
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    FixedScalingPolicy,
    NoopDecision,
    ScalingPolicy,
)
from ray.train.v2._internal.execution.worker_group import ActorMetadata, RayTrainWorker, WorkerGroup, WorkerGroupState
from ray.train.v2.api.config import ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from heliostat.errors import JobFailed, Stopped
from heliostat.folder import Folder
from heliostat.workloads.ray_train.policies import ELASTIC, ENVIRONMENT, ElasticScaling, FailureHandling, unwrap
from heliostat.workloads.ray_train.trainer import CONTROLLER_VARIABLES, Fixed, Group, NoBarrier, Trainer
from heliostat.workloads.run.attempts import Attempts, of
from heliostat.workloads.run.signals import STOP
from heliostat.workloads.run.so_far import result_of


def test_the_controller_takes_our_policies_from_the_method_that_we_extend() -> None:
    assert {"scaling_policy", "failure_policy"} <= set(inspect.signature(controller.TrainController.__init__).parameters)
    fit = inspect.getsource(DataParallelTrainer.fit)
    assert "self._initialize_and_run_controller(" in fit
    assert "scaling_policy=" in fit
    assert "failure_policy=" in fit
    assert Trainer._initialize_and_run_controller is not DataParallelTrainer._initialize_and_run_controller


def test_a_worker_gets_a_runtime_environment_only_if_the_user_wants_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would be a new process, instead of one of Ray's idle ones."""
    assert "self.worker_group_cls.create(" in inspect.getsource(controller.TrainController)
    assert "self._get_worker_runtime_env(" in inspect.getsource(WorkerGroup)
    for name in CONTROLLER_VARIABLES:
        monkeypatch.setenv(name, "1")
    assert WorkerGroup._get_worker_runtime_env({})["env_vars"].keys() >= ENVIRONMENT.keys() | ELASTIC.keys()
    assert Group._get_worker_runtime_env({}) == {}
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    wanted = {"pip": ["x"], "env_vars": {"A": "b"}}
    assert Group._get_worker_runtime_env(wanted) == {
        "pip": ["x"], "env_vars": {"A": "b", "RAY_TRAIN_ENABLE_PRINT_PATCH": "0"},
    }  # fmt: skip


def test_workers_do_without_the_process_that_would_hand_out_rays_datasets() -> None:
    assert "DatasetsCallback(" in inspect.getsource(DataParallelTrainer._create_default_callbacks)
    assert inspect.signature(RayTrainWorker.init_train_context).parameters["dataset_shard_provider"].default is None
    trainer = Trainer(lambda: None, policies={})
    assert not [callback for callback in trainer._create_default_callbacks() if isinstance(callback, DatasetsCallback)]


def test_a_fixed_size_is_requested_by_its_placement_group_alone() -> None:
    """Ray Train's other request starts a process and waits for it; the policy must work without it."""
    policy = ElasticScaling(ScalingConfig(num_workers=2), "runs/x", 2, 2, 0.0, 60.0)
    assert policy._coordinator_client is None
    policy.before_controller_abort()
    Fixed(ScalingConfig(num_workers=2)).make_decision_for_non_running_worker_group()
    assert "if self._coordinator_client is None" in inspect.getsource(ScalingPolicy._cancel_resource_request)


def test_workers_start_without_the_actor_of_rays_barrier_and_without_a_controller_actor() -> None:
    """See `heliostat.workloads.ray_train.trainer.Group`."""
    assert "SynchronizationActor" in WorkerGroup._start_impl.__code__.co_names
    assert not WorkerGroup._start_impl.__code__.co_freevars
    assert NoBarrier.options(label_selector={}).remote(timeout_s=1.0) is None
    fields = {field.name for field in dataclasses.fields(WorkerGroupState)}
    assert fields == {"start_time", "placement_group_handle", "workers", "sync_actor"}
    ours, theirs = (inspect.getsource(kind._init_train_context_on_workers) for kind in (Group, WorkerGroup))
    passed = set(re.findall(r"(\w+)=[^=]", theirs.split("init_train_context.remote(")[1]))
    assert passed <= set(re.findall(r"(\w+)=[^=]", ours)), "what the workers get from Ray Train"
    start = inspect.getsource(WorkerGroup._start)
    assert "builder.shutdown()" in start
    assert "_start_impl" in start


def test_a_controller_needs_nothing_of_an_actor_until_it_is_aborted() -> None:
    """It runs in the driver's own thread; see `Trainer._initialize_and_run_controller`."""
    source = inspect.getsource(controller.TrainController)
    assert not re.search("current_actor|get_actor_id", source)
    after_abort = [controller.TrainController.abort, controller.TrainController._poll_workers]
    assert source.count("exit_actor()") == sum(inspect.getsource(each).count("exit_actor()") for each in after_abort)
    assert "if self.get_state().is_terminal():" in inspect.getsource(after_abort[1])


def test_a_request_to_stop_is_seen_during_a_back_off(tmp_path: Path) -> None:
    policy = ElasticScaling(ScalingConfig(num_workers=1), str(tmp_path), 1, 1, 0.0, 60.0)
    of(str(tmp_path)).not_before = time.monotonic() + 1000
    assert isinstance(policy.make_decision_for_non_running_worker_group(), NoopDecision)
    run = Folder.at(str(tmp_path))
    run.write(STOP, b"")
    assert result_of(run).state == "interrupted"
    with pytest.raises(Stopped) as stopped:
        policy.make_decision_for_non_running_worker_group()
    policy.after_controller_state_update(None, controller.ErroredState(ControllerError(stopped.value)))
    assert result_of(run).state == "stopped"
    policy.after_controller_start(None)
    assert result_of(run).state == "interrupted", "the command of the next attempt was killed"


def test_a_run_that_starts_again_in_a_process_knows_what_another_has_recorded(tmp_path: Path) -> None:
    """The controller lives in the driver, which may be a notebook; in an object store what it did not know would be lost."""
    policy = ElasticScaling(ScalingConfig(num_workers=1), str(tmp_path), 1, 1, 0.0, 60.0)
    policy.after_controller_start(None)
    Attempts(Folder.at(str(tmp_path))).record("running", workers=3)
    policy.after_controller_start(None)
    events = [record["event"] for record in of(str(tmp_path)).records]
    assert events == ["launched", "running", "launched"]
    policy.after_controller_state_update(None, controller.FinishedState())
    assert [record["event"] for record in of(str(tmp_path)).records] == [*events, "ended"]


def test_a_driver_that_leaves_a_run_records_nothing_of_what_follows(tmp_path: Path) -> None:
    """Its workers die with Ray, after that perhaps another driver has the run."""
    scaling = ElasticScaling(ScalingConfig(num_workers=1), str(tmp_path), 1, 1, 0.0, 60.0)
    failing = FailureHandling(str(tmp_path), 3, 0.0)
    scaling.over = failing.over = True
    assert failing.make_decision(WorkerGroupError("", {0: JobFailed("the end of Ray")})) is FailureDecision.RAISE
    with pytest.raises(Stopped):
        scaling.make_decision_for_non_running_worker_group()
    scaling.after_controller_state_update(None, controller.FinishedState())
    assert list(tmp_path.iterdir()) == []


def test_our_policies_implement_every_abstract_method() -> None:
    assert ScalingPolicy.__abstractmethods__ == {
        "make_decision_for_non_running_worker_group",
        "make_decision_for_running_worker_group",
        "_get_num_workers_for_resource_request",
    }
    assert FailurePolicy.__abstractmethods__ == {"make_decision"}
    assert not ElasticScaling.__abstractmethods__ | FailureHandling.__abstractmethods__
    assert {decision.name for decision in FailureDecision} == {"RETRY", "RAISE", "NOOP"}


def test_the_states_that_are_recorded_have_these_names() -> None:
    states = {"SchedulingState", "RunningState", "FinishedState", "ErroredState", "AbortedState"}
    assert states <= vars(controller).keys()
    assert controller.SchedulingState(NoopDecision()).scaling_decision == NoopDecision()


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (ScalingPolicy, {"after_controller_start", "after_controller_state_update", "_maybe_send_resource_request"}),
        (FixedScalingPolicy, {"after_controller_start", "_maybe_send_resource_request"}),
        (ScalingConfig, {"_resources_per_worker_not_none"}),
        (controller.TrainController, {"run", "get_result", "worker_group_cls"}),
        (WorkerGroupState, {"num_workers", "workers", "start_time"}),
        (ActorMetadata, {"node_id"}),
        (DataParallelTrainer, {"_create_default_callbacks", "_initialize_and_run_controller"}),
    ],
)
def test_what_our_policies_and_trainer_override_or_read_exists(owner: type, names: set[str]) -> None:
    assert names <= {*dir(owner), *getattr(owner, "__dataclass_fields__", {})}


def test_a_controller_can_be_placed_on_its_drivers_node() -> None:
    assert ray._raylet.RAY_NODE_ID_KEY == "ray.io/node-id"
    assert isinstance(ray._private.worker.SCRIPT_MODE, int)


def test_rays_own_policy_still_asks_for_more_than_the_nodes_can_give() -> None:
    """The guard in `ElasticScaling` can go when this fails."""
    scaling = ScalingConfig(num_workers=(1, 4), resources_per_worker={"CPU": 1})
    assert ElasticScalingPolicy(scaling)._get_num_workers_for_resource_request() == 4
    assert ElasticScaling(scaling, "runs/x", 1, 2, 0.0, 60.0)._get_num_workers_for_resource_request() == 2


def test_the_workers_to_be_replaced_still_hold_resources_while_the_new_size_is_decided() -> None:
    """`ElasticScaling` counts their resources as free; if Ray released them first, it would count them twice."""
    decide = inspect.getsource(controller.TrainController._make_and_handle_scaling_decision_for_non_running_worker_group)
    resize = inspect.getsource(controller.TrainController._execute_resize_decision)
    assert "_shutdown_worker_group()" not in decide
    assert resize.index("_shutdown_worker_group()") < resize.index("_start_worker_group(")


def test_our_errors_are_unwrapped_from_rays() -> None:
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
    from ray.train.v2.api.exceptions import ControllerError

    failure = JobFailed("the cause")
    assert unwrap(ControllerError(failure)) is failure
    assert unwrap(UserExceptionWithTraceback(failure, "")) is failure
    assert unwrap(WorkerHealthCheckFailedError("", failure)) is failure
