"""The contract with Ray's private view of its nodes, and how many workers fit on them."""

import inspect

import pytest
import ray._private.state
import ray._raylet

from heliostat.errors import UserError
from heliostat.workloads.config import Resources
from heliostat.workloads.nodes import capacity, resolve_resources

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


def test_auto_takes_a_gpu_where_every_worker_gets_one() -> None:
    assert resolve_resources(Resources(), 8, NODES).gpu == 1
    assert resolve_resources(Resources(), 9, NODES).gpu == 0
    assert resolve_resources(Resources(), 9, None).gpu == 0


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
