"""What a session leaves on this machine."""

import json
import platform
from pathlib import Path

import pytest

from heliostat.cluster.kube.api import Api
from heliostat.cluster.ray_version import differing, installed_ray
from heliostat.cluster.targets.session import write_token


def api(folder: Path, context: str, namespace: str) -> Api:
    """A connection that is never opened, from a kubeconfig as kubectl writes it."""
    document = {
        "apiVersion": "v1", "kind": "Config", "current-context": context,
        "clusters": [{"name": "far", "cluster": {"server": "https://192.0.2.1"}}],
        "users": [{"name": "me", "user": {"token": "secret"}}],
        "contexts": [{"name": context, "context": {"cluster": "far", "user": "me", "namespace": namespace}}],
    }  # fmt: skip
    path = folder / "kubeconfig"
    path.write_text(json.dumps(document))
    return Api(str(path))


def test_no_two_clusters_share_a_token_file_and_only_the_user_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    places = [("a", "b-c", "d"), ("a-b", "c", "d"), ("a", "b", "c-d"), ("a+b", "c", "d"), ("arn:aws/a", "b", "c")]
    paths = [write_token(api(tmp_path, context, namespace), name, context) for context, namespace, name in places]
    assert len(set(paths)) == len(places)
    assert [path.read_text() for path in paths] == [context for context, _, _ in places]
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}
    assert {path.parent for path in paths} == {tmp_path / ".heliostat" / "tokens"}


def test_versions_that_ray_client_needs_to_be_the_same_are_compared() -> None:
    ray, python = installed_ray(), platform.python_version()
    assert differing(ray, python) == differing(ray, "") == []
    (text,) = differing(ray, "3.99.1")
    assert text.startswith(f"the cluster has Python 3.99.1, and this machine {python}: Ray Client needs the same minor version")
    assert len(differing("2.1.0", "3.99.1")) == 2
