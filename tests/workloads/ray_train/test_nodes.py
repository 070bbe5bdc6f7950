"""The contract with Ray's private view of its nodes, and how many workers fit on them."""

import inspect

import pytest
import ray._private.state
import ray._raylet
import torch

from heliostat.errors import UserError
from heliostat.workloads.config import Resources
from heliostat.workloads.nodes import Nodes, available, capacity, resolve_resources
from heliostat.workloads.training import distributed

NODES = [{"CPU": 8.0, "GPU": 1.0, "nodes": 4}, {"CPU": 16.0, "GPU": 4.0}]


def test_ray_reports_draining_nodes_with_their_deadlines() -> None:
    ask = ray._private.state.GlobalState.get_draining_nodes
    assert str(inspect.signature(ask).return_annotation) == "typing.Dict[str, int]"
    assert "deadline timestamps in ms" in (ask.__doc__ or "")
    assert hasattr(ray._raylet.GlobalStateAccessor, "get_draining_nodes")


def test_ray_reports_free_resources_by_node() -> None:
    assert "node hex id to available resources" in (ray._private.state.available_resources_per_node.__doc__ or "")
    assert hasattr(ray._raylet.GlobalStateAccessor, "get_all_available_resources")


@pytest.mark.parametrize(("cpu", "gpu", "workers"), [(1, 1, 8), (6, 1, 6), (4, 0, 12), (17, 0, 0)])
def test_capacity_counts_workers_that_fit_on_one_node_each(cpu: int, gpu: int, workers: int) -> None:
    assert capacity(NODES, {"CPU": cpu, "GPU": gpu}) == workers


def test_auto_takes_a_gpu_where_there_are_gpus_and_a_cpu_where_there_are_none() -> None:
    assert resolve_resources(Resources(), 8, NODES).gpu == 1
    assert resolve_resources(Resources(), 9, [{"CPU": 16.0, "GPU": 0.0}, {"CPU": 2.0}]).gpu == 0


@pytest.mark.parametrize(
    ("nodes", "workers", "words", "fix"),
    [
        (NODES, 9, "workers is 9, each with 1 GPU, but there are 8 GPUs", "set workers to 8, or resources.gpu to 0 to train"),
        ([{"CPU": 8.0, "GPU": 1.0}], 2, "there is 1 GPU", "set workers to 1, or resources.gpu to 0 to train on CPUs"),
        ([{"CPU": 2.0, "GPU": 1.0}, {"CPU": 64.0}], 3, "there is 1 GPU", "set workers to 1, or resources.gpu to 0"),
        ([{"CPU": 4.0, "GPU": 1.0}], 8, "each with 1 CPU, but there are 4 CPUs", "set workers to 1, or give each less"),
        ([], 1, "resources.gpu is auto, but how many GPUs this cluster can have", "set resources.gpu to 1, or to 0"),
    ],
)  # fmt: skip
def test_too_few_gpus_are_refused_and_never_replaced_by_cpus(nodes: Nodes, workers: int, words: str, fix: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve_resources(Resources(), workers, nodes)
    assert words in refused.value.what
    assert fix in refused.value.fix


def test_a_cluster_that_heliostat_did_not_make_has_unknown_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker group of another KubeRay cluster may be at zero."""
    monkeypatch.setenv("RAY_USAGE_STATS_KUBERAY_IN_USE", "1")
    assert list(available()) == []
    assert resolve_resources(Resources(gpu=1), 9, available()).gpu == 1


@pytest.mark.parametrize(
    ("resources", "workers", "words"),
    [
        (Resources(gpu=1), 9, "workers is 9, each with 1 GPU, but there are 8 GPUs"),
        (Resources(cpu=12, gpu=0), 2, "workers is 2, each with 12 CPU and 0 GPU on one node, but the nodes have room for 1"),
    ],
)
def test_workers_that_never_fit_are_refused(resources: Resources, workers: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        resolve_resources(resources, workers, NODES)


def test_a_worker_whose_torch_cannot_use_its_gpu_does_not_train_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes' device plugin names the GPU of a container; the logical ones of an emulated cluster are no GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(distributed, "GPU_DEVICES", ())
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)
    distributed.check_gpu()
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "GPU-8c2e")
    with pytest.raises(UserError, match=r"holds a GPU of .*, but torch .* (finds none|was built without)") as refused:
        distributed.check_gpu()
    assert "resources.gpu to 0" in refused.value.fix
    monkeypatch.setenv("RAY_FAKE_CLUSTER", "1")
    distributed.check_gpu()
