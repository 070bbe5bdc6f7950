"""Errors that no other node corrects: reported once, by the worker that failed first, without endless retries."""

from pathlib import Path

import pytest

from tests.conftest import Command
from tests.faults.conftest import Seen, write_project


@pytest.fixture
def project(on_ray: Command) -> Command:
    write_project(on_ray.cwd)
    return on_ray


def train(command: Command, name: str, *settings: str) -> tuple[int, str]:
    flags = [part for setting in (f"name={name}", *settings) for part in ("--set", setting)]
    done = command("train", "config.yaml", *flags)
    return done.code, done.err


def test_a_mistake_in_the_code_ends_the_run_at_once(project: Command) -> None:
    code, output = train(project, "mistake", "model.fail_at=30", "model.error=TypeError")
    assert code == 1
    assert output.count("TypeError: this step never works") == 1
    assert "failed after step 30:" in output
    assert "watched.py" in output
    assert len(Seen.at(project.cwd / "runs/mistake").starts) == 1


def test_a_step_that_fails_three_times_the_same_way_is_the_users_error(project: Command) -> None:
    # Written at once: else step 30 may come before the checkpoint of step 25 counts.
    code, output = train(project, "thrice", "model.fail_at=30", "checkpoint_async=false")
    assert code == 1
    assert "the same step failed 3 times with this error" in output
    assert output[output.index("heliostat: ") :].count("RuntimeError: this step never works") == 1
    assert output.count(" from step 25 (failure") == 2  # the second after a pause, "resumes in 1 s from"
    run = Seen.at(project.cwd / "runs/thrice")
    assert [start["step"] for start in run.starts] == [0, 25, 25]


def test_a_worker_that_hangs_is_named(project: Command) -> None:
    code, output = train(project, "hung", "model.hang_at=30", "hang_minutes=0.25", "max_failures=0")
    assert code == 1
    assert "a collective timed out after step 30; ranks that did not reach it: 1" in output
    assert "Traceback" not in output


def test_resources_that_another_holds_are_not_counted(command: Command, tmp_path: Path) -> None:
    """Ray Train's own policy would request two workers forever. Before, the call starts a Ray of its own, and leaves none."""
    write_project(command.cwd)
    script = tmp_path / "busy.py"
    script.write_text(
        "import ray\n"
        "from heliostat import train\n"
        "print(train('config.yaml', name='own', workers=1, steps=5).state)\n"
        "ray.init(num_cpus=2, log_to_driver=False)\n"
        "holder = ray.remote(num_cpus=1)(type('Holder', (), {})).remote()\n"
        "ray.get(holder.__ray_ready__.remote())\n"
        "print(train('config.yaml', ['name=busy', 'workers=[1,2]', 'steps=30']).state)\n"
    )
    with command.python(str(script)) as process:
        out, err = process.communicate(timeout=300)
    assert out.strip().splitlines() == ["finished", "finished"], err
    assert [len(start["workers"]) for start in Seen.at(command.cwd / "runs/busy").starts] == [1]
