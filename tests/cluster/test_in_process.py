import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import ROOT, Head, clean_environment, gone

CODE = """
import json, subprocess, urllib.error, urllib.request
import ray
from heliostat.cluster import in_process
mine = subprocess.Popen(["sleep", "60"])
with in_process.session() as dashboard:
    seen = {"dashboard": dashboard, "cpus": ray.cluster_resources()["CPU"], "machine": in_process.machine()[0]["CPU"]}
    try:
        urllib.request.urlopen(dashboard + "/api/jobs/")
    except urllib.error.HTTPError as error:
        seen["without a token"] = error.code
    token = open(__import__("os").path.expanduser("~/.heliostat/ray-token")).read()
    request = urllib.request.Request(dashboard + "/api/jobs/", headers={"Authorization": "Bearer " + token})
    seen["with the token"] = urllib.request.urlopen(request).status
seen["after"] = ray.is_initialized()
seen["mine"] = mine.poll()
mine.kill()
print(json.dumps(seen))
"""


def test_a_local_session_has_a_dashboard_behind_a_token_and_leaves_nothing(tmp_path: Path) -> None:
    """Ray is imported before the session here; the token mode must still apply."""
    env = clean_environment(tmp_path)
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["without a token"] == 401
    assert seen["with the token"] == 200
    assert seen["cpus"] == seen["machine"]
    assert seen["after"] is False
    assert seen["mine"] is None, "what is not Ray's is left alone"
    gone(env)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:8265", "which is for jobs"),
        ("127.0.0.1:1", "no Ray answers at 127.0.0.1:1"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_wrong_ray_address_is_named(tmp_path: Path, address: str, words: str) -> None:
    env = {**clean_environment(tmp_path), "RAY_ADDRESS": address}
    config = str(ROOT / "workloads/configs/breast-cancer.yaml")
    command = [sys.executable, "-m", "heliostat", "train", config]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_the_head_of_the_tests_wants_a_token(ray_head: Head) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{ray_head.jobs}/api/jobs/")
