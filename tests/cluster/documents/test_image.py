"""The image cannot be built here, so its Dockerfile is parsed: it must fit the bundled profiles and the manifests."""

import re

import pytest

from heliostat.cluster.documents.manifests import ray_cluster
from heliostat.cluster.profile import BUNDLED, Profile, find
from heliostat.cluster.ray_version import TESTED
from heliostat.config import validate
from tests.conftest import ROOT

FOLDER = ROOT / "cluster/image"
PROFILES = sorted(path.stem for path in BUNDLED.glob("*.yaml"))


def instructions() -> list[tuple[str, str]]:
    """What the Dockerfile does, as (instruction, rest), with its arguments filled in."""
    text = re.sub(r"^#.*\n", "", (FOLDER / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [(line.split()[0], " ".join(line.split()[1:])) for line in text.splitlines() if line.strip()]
    values = dict(rest.split("=") for name, rest in lines if name == "ARG")
    return [(name, re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], rest)) for name, rest in lines]


def only(instruction: str) -> str:
    (rest,) = [rest for name, rest in instructions() if name == instruction]
    return rest


@pytest.mark.parametrize("name", PROFILES)
def test_the_bundled_profiles_name_the_image_that_is_built(name: str) -> None:
    profile = find(name)
    built = re.findall(r"docker build .* -t (\S+) \.", (FOLDER / "Dockerfile").read_text())
    assert built == [profile.image]
    assert f'"ray[serve]=={profile.ray_version}"' in " ".join(rest for _, rest in instructions())


def test_the_image_and_the_requirements_have_the_ray_that_is_tested() -> None:
    (install,) = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    assert install.endswith("-r /tmp/requirements.txt")
    assert f'"ray[serve]=={TESTED}"' in install
    assert re.search(rf"^ray\[[\w,]+\]=={TESTED} ", (ROOT / "requirements.txt").read_text(), re.MULTILINE)


def test_without_cuda_torch_is_of_the_same_range() -> None:
    (install,) = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    assert "TORCH=cuda" in [rest for name, rest in instructions() if name == "ARG"]
    assert 'cpu) grep "^torch>" /tmp/requirements.txt > /tmp/torch.txt && pip install' in install
    assert len(re.findall("^torch>", (ROOT / "requirements.txt").read_text(), re.MULTILINE)) == 1
    tag = re.search(r"^IMAGE \?= (\S+?)\$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert tag is not None
    assert tag[1] == find("gpu").image, "what make image builds"


def test_the_image_has_a_python_that_the_project_runs_on() -> None:
    base = re.fullmatch(r"python:3\.(\d+)-slim-bookworm", only("FROM"))
    least = re.search(r'requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert base is not None
    assert least is not None
    assert int(base[1]) >= int(least[1])


def test_a_restricted_namespace_admits_the_images_user() -> None:
    """The kubelet proves runAsNonRoot by a number other than 0."""
    user, group = only("USER").split(":")
    assert int(user) == 1000
    pod = ray_cluster(find("gpu"))["spec"]["headGroupSpec"]["template"]["spec"]
    assert int(group) == pod["securityContext"]["fsGroup"], "else it could not write to the claim"
    assert f"useradd --uid {user} --gid {group} --create-home --home-dir /home/ray" in " ".join(r for _, r in instructions())
    assert instructions()[-1][0] == "USER"


def test_no_code_of_the_project_is_in_the_image() -> None:
    assert only("COPY") == "requirements.txt /tmp/requirements.txt"
    assert "ADD" not in [name for name, _ in instructions()]
    assert (FOLDER / "Dockerfile.dockerignore").read_text().split() == ["*", "!requirements.txt"]


@pytest.mark.parametrize("program", ["bash", "wget", "openssl"])
def test_what_kuberay_starts_in_the_image_is_there(program: str) -> None:
    (install,) = [rest for name, rest in instructions() if "apt-get install" in rest]
    assert program in install.split()


def test_the_image_is_the_default_of_a_profile() -> None:
    least = {"name": "least", "groups": [{"name": "cpu", "max": 1}], "storage": {"uri": "s3://bucket/runs"}}
    assert validate(least, Profile).image == find("gpu").image
