"""The private parts of Ray that cluster/ uses, as it uses them: a Ray that changes one fails here, and not for a user."""

import base64
import inspect
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import ray
import ray._private.accelerators
import ray._private.node
import ray._private.runtime_env.packaging as ray_packaging
import ray._private.utils
import ray.dashboard.agent as agent
from ray._private import ray_constants, services
from ray._private.resource_and_label_spec import HEAD_NODE_RESOURCE_NAME
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled, without a stub
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler._private.util import validate_config
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE
from ray.scripts.scripts import start

from heliostat import job_environment
from heliostat.cluster import head, in_process, ray_node, ray_version
from heliostat.cluster.diagnosis import crashes
from heliostat.cluster.documents import pods
from heliostat.cluster.documents.manifests import FEATURES
from heliostat.cluster.jobs.contents import contents
from heliostat.cluster.jobs.packaging import compact, packages
from heliostat.cluster.profile import Profile, find
from heliostat.cluster.targets import code_maps, scheduled
from heliostat.cluster.targets.local import emulation, provider
from heliostat.environment import ON_HEAD
from heliostat.errors import UserError
from heliostat.modules import FOLDER

SOURCES = Path(ray.__file__).parent
READ_BY_PYTHON = ("_common", "_private", "autoscaler", "dashboard", "train/v2", "train/constants.py")
CGROUPS = ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us", "cpuset/cpuset.cpus", "cpu.max")
READ_BY_C = ("core/src/ray/raylet/raylet", "_raylet.so")


def test_the_tests_run_with_the_ray_that_is_said_to_be_tested() -> None:
    assert ray.__version__ == ray_version.TESTED


@pytest.mark.parametrize(("installed", "refused"), [("2.59.0", True), ("2.61.0", True), ("2.60.7", False), ("2.60.0", False)])
def test_another_ray_than_the_tested_one_is_reported(
    installed: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / f"ray-{installed}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ray\nVersion: {installed}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    words = f"Ray {installed} is installed, but Heliostat uses private parts of Ray and is tested with 2.60.0 only"
    if refused:
        with pytest.raises(UserError, match=words) as error:
            ray_version.check_ray()
        assert error.value.fix == 'pip install "ray[default,train,tune,client]==2.60.0"'
        return
    ray_version.check_ray()
    assert (words in capsys.readouterr().err) == (installed != "2.60.0")


# Ray in this process: heliostat/cluster/in_process.py


def test_the_machine_is_counted_as_ray_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray._private.utils, "get_num_cpus", lambda: 5)
    gpus = ray._private.accelerators.get_accelerator_manager_for_resource("GPU")
    monkeypatch.setattr(gpus, "get_current_node_num_accelerators", staticmethod(lambda: 3))
    assert in_process.machine() == [{"CPU": 5.0, "GPU": 3.0}]


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"cpu.max": "max 100000"},
        {"cpu.max": "300000 100000"},
        {"cpu.max": "150000 100000"},
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n", "cpuset/cpuset.cpus": "0-1,3\n"},
        {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n", "cpuset/cpuset.cpus": "0-3\n"},
    ],
)
def test_without_ray_the_cpus_of_a_container_are_counted_as_ray_counts_them(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    quota, period, cpuset, both = (str(tmp_path / name) for name in CGROUPS)
    theirs = ray._private.utils._get_docker_cpus(quota, period, cpuset, both)
    assert in_process._cpus(both, quota) == int(theirs or os.cpu_count() or 1)
    assert in_process._cpus() == ray._private.utils.get_num_cpus()


def test_a_node_has_time_to_register_and_is_not_waited_for_when_its_processes_have_ended() -> None:
    assert "ray._private.services.get_node(" in inspect.getsource(ray._private.node.Node.__init__)
    answers: list[Any] = [RuntimeError("not found"), RuntimeError("not found"), {"node": 1}]

    def get_node(*args: str) -> Any:
        assert args == ("address", "id")
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return answer

    assert ray_node.registered(get_node, [])("address", "id") == {"node": 1}
    answers.append(RuntimeError("not found"))
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
        with pytest.raises(RuntimeError, match="not found"):
            ray_node.registered(get_node, [ended])("address", "id")


def test_the_processes_that_a_command_does_without_are_left_out_where_ray_starts_them() -> None:
    """See `heliostat.cluster.head`."""
    assert "self.start_api_server(" in inspect.getsource(ray._private.node.Node.start_head_processes)
    assert "if not self._ray_params.no_monitor:" in inspect.getsource(ray._private.node.Node.start_head_processes)
    assert "if self._ray_params.include_log_monitor:" in inspect.getsource(ray._private.node.Node.start_ray_processes)
    raylet = inspect.getsource(services.start_raylet)
    assert f'"{head.AGENT}{{}}"' in raylet
    assert f'"{head.PRESTARTED}{{}}"' in raylet
    assert "start_ray_process(" in raylet
    assert head._changed(f"{head.PRESTARTED}8", False, 2) == f"{head.PRESTARTED}2"
    assert head._changed(f"{head.PRESTARTED}1", False, 2) == f"{head.PRESTARTED}1"
    assert head._changed(f"{head.AGENT}x", True, None) == f"{head.AGENT}x", "the dashboard needs it"


def test_a_node_needs_no_agent_to_start_and_gets_the_ports_of_one_later() -> None:
    """See `heliostat.cluster.ray_node`."""
    assert "self.start_raylet(" in inspect.getsource(ray._private.node.Node.start_ray_processes)
    assert "RAY_gcs_server_port_wait_time_s" in inspect.getsource(ray._private.node.Node)
    minimal = inspect.getsource(agent.DashboardAgent.__init__)
    assert minimal.count("persist_port(") == 2
    assert minimal.count("-1,") == 2, "how an agent says that it has no port"


def test_no_setting_gives_a_pod_more_time_to_start() -> None:
    """The raylet's 15 s for its agent are no setting either; see `heliostat.cluster.diagnosis.crashes`."""
    source = inspect.getsource(ray._private.node.Node.__init__)
    assert source.count("raylet_start_wait_time_s = 30\n") == 1
    assert source.count("raylet_start_wait_time_s") == 2
    assert crashes.TOO_SLOW in source


def test_ray_reads_the_token_mode_again_when_it_is_asked_to() -> None:
    """`ray.init` does not look at an environment that changed since the import, nor at another token than its first."""
    assert callable(Config.initialize)
    assert callable(AuthenticationTokenLoader.instance().reset_cache)


def test_each_variable_that_is_set_is_one_that_ray_reads() -> None:
    """A name that Ray has dropped would do nothing, without a word."""
    documents = [
        pods.head_group(find("gpu"), "x", "gpu", True),
        pods.worker_group(find("gpu"), "x", find("gpu").groups[0], frozenset()),
    ]
    in_pods = {v["name"] for d in documents for c in d["template"]["spec"]["containers"] for v in c["env"]}
    names = {
        *in_process.SETTINGS,
        *emulation.SETTINGS,
        *pods.SETTINGS,
        *in_pods,
        "AUTOSCALER_METRIC_PORT",
        *emulation.NOT_OF_CLUSTERS,
        emulation.CLUSTER_FOLDER,
    }
    own = (
        "CLUSTER",
        "IDLE_SECONDS",
        "LIMITS",
        "METRICS_OF_RAY",
        "METRICS_PORT",
        "NAMESPACE",
        "PRICES",
        "STORAGE",
        "TEAM_LIMITS",
    )
    ours = {name for name in names if name.startswith("HELIOSTAT_") or name in own}
    sought = {name.encode() for name in names - ours - {"GRPC_ENABLE_FORK_SUPPORT"}}
    for path in _sources():
        text = path.read_bytes()
        # The core's settings have names without the prefix there.
        sought -= {name for name in sought if name in text or name.removeprefix(b"RAY_") in text}
        if not sought:
            break
    assert sought == set()


def _sources() -> list[Path]:
    folders = [SOURCES / name for name in READ_BY_PYTHON]
    python = [path for folder in folders for path in ([folder] if folder.is_file() else sorted(folder.rglob("*.py")))]
    return [*python, *(SOURCES / name for name in READ_BY_C)]


def test_the_head_has_the_resource_by_which_work_is_placed_on_it() -> None:
    assert list(ON_HEAD) == [HEAD_NODE_RESOURCE_NAME]


# Packages: heliostat/cluster/jobs/contents.py and packaging.py


def test_ray_keeps_an_upload_that_no_job_refers_to_for_ten_minutes_and_logs_no_more_than_its_start() -> None:
    """Uploads of secret variables start with a header; see `heliostat.job_environment`."""
    assert ray_constants.RAY_RUNTIME_ENV_URI_PIN_EXPIRATION_S_DEFAULT == job_environment.KEPT
    assert "{data[:15]}" in inspect.getsource(ray_packaging._store_package_in_gcs)
    assert len(job_environment.HEADER) > 15


# The local cluster: heliostat/cluster/targets/local


def test_the_autoscaler_takes_our_configuration() -> None:
    validate_config(emulation.autoscaling(find("local"), 6379, "/tmp/x"))


def test_ray_start_knows_every_flag_of_the_head() -> None:
    ports = dict.fromkeys(emulation.PORTS, 1)
    flags = {word.partition("=")[0] for word in emulation.command(find("local"), ports, Path("x")) if word.startswith("--")}
    assert flags <= {option for parameter in start.params for option in parameter.opts}


class FakeNode:
    """Stands for `ray._private.node.Node`, which would start processes, and keeps what it was made with."""

    def __init__(self, parameters: Any, **flags: bool) -> None:
        self.parameters, self.flags, self.ended = parameters, flags, False

    def kill_all_processes(self, **_: bool) -> None:
        self.ended = True


def test_each_node_of_a_local_cluster_has_its_own_folder_which_is_deleted_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = inspect.signature(ray._private.node.Node.__init__).parameters
    monkeypatch.setattr(provider, "Node", FakeNode)
    monkeypatch.setenv("RAY_FAKE_CLUSTER", "1")
    made = provider.Provider(emulation.autoscaling(find("local"), 6379, str(tmp_path))["provider"], "x")
    group, resources = find("local").groups[0].name, {"CPU": 2, "GPU": 1, "memory": 1 << 30, "object_store_memory": 1 << 28}
    for _ in range(2):
        made.create_node_with_resources_and_labels({}, {TAG_RAY_USER_NODE_TYPE: group}, 1, dict(resources), {"a": "b"})
    names = [f"{group}-1", f"{group}-2"]
    assert set(made.non_terminated_nodes({TAG_RAY_USER_NODE_TYPE: group})) == set(names)
    first, second = (made._nodes[name]["node"] for name in names)
    assert first.flags.keys() <= flags.keys()
    assert first.parameters.temp_dir != second.parameters.temp_dir
    assert (first.parameters.num_cpus, first.parameters.num_gpus, first.parameters.labels) == (2, 1, {"a": "b"})
    assert first.parameters.env_vars == {
        "RAY_CLOUD_INSTANCE_ID": names[0], "RAY_NODE_TYPE_NAME": group, "RAY_enable_metrics_collection": "0",
    }  # fmt: skip
    Path(first.parameters.temp_dir).mkdir()
    made.terminate_node(names[0])
    assert first.ended
    assert not Path(first.parameters.temp_dir).exists()
    assert set(made.non_terminated_nodes({TAG_RAY_USER_NODE_TYPE: group})) == {names[1]}


@pytest.mark.parametrize("name", ["_create_node_with_resources_and_labels", "_terminate_node"])
def test_the_provider_extends_methods_that_ray_has(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(kind, name)) for kind in (provider.Provider, FakeMultiNodeProvider))
    assert list(ours.parameters) == list(theirs.parameters)


def test_the_provider_imports_nothing_of_ours() -> None:
    """The head gets a copy of the file alone."""
    assert not re.search("^(from|import) heliostat", inspect.getsource(provider), re.MULTILINE)


def test_ray_unpacks_the_packages_of_scheduled_runs_and_keeps_their_folders(tmp_path: Path) -> None:
    """It takes away the only top-level folder of a package that it does not get from its own store."""
    (tmp_path / "train.py").write_text("")
    (tmp_path / "start.sh").touch(mode=0o755)
    (tmp_path / "empty").mkdir()
    own = [compact(package) for package in packages(contents(tmp_path, isolated=True))]
    assert len(own[1].data) < 0.95 * code_maps.LARGEST, "Heliostat's own package has a ConfigMap of this size"
    parts = scheduled.documents(find("gpu"), "runs", "0 2 * * *", "true", own, FEATURES["1.7"])
    code = {name: data for part in parts for name, data in part.get("binaryData", {}).items()}
    assert len(code) == 2
    for name, data in code.items():
        (tmp_path / name).write_bytes(base64.b64decode(data))
        assert ray_packaging.is_tar_uri(f"file:///code/{name}")
        ray_packaging.untar_package(str(tmp_path / name), str(tmp_path / "unpacked"), True, unlink_tar=True)
    there = tmp_path / "unpacked"
    assert (there / FOLDER / "empty").is_dir()
    assert os.access(there / FOLDER / "start.sh", os.X_OK)
    assert not os.access(there / FOLDER / "train.py", os.X_OK)
    assert (there / "heliostat/cluster/profile.py").read_bytes() == Path(inspect.getfile(Profile)).read_bytes()
