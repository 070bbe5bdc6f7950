import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from heliostat.cluster.planner.trace import Trace, read_trace
from heliostat.errors import UserError

HEADER = "job_id,submission_time,duration,num_gpu\n"
SACCT = "JobID|Submit|State|ElapsedRaw|AllocTRES|ReqTRES\n"
NOON = "2026-01-31T12:00:00"
RAN = {"start_time": "2017-10-09 07:02:55", "end_time": "2017-10-09 07:03:55", "detail": [{"ip": "m1", "gpus": ["a", "b"]}]}
JOB = {"jobid": "a", "submitted_time": "2017-10-09 07:01:55", "attempts": [RAN, RAN]}


def written(folder: Path, content: str | bytes, name: str = "jobs.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(trace: Trace) -> list[tuple[str, float, float, int]]:
    jobs = trace.jobs
    first = jobs.submitted[0]
    columns = (jobs.submitted - first).tolist(), jobs.seconds.tolist(), jobs.gpus.tolist()
    return list(zip(jobs.ids.to_pylist(), *columns, strict=True))


@pytest.mark.parametrize(
    ("text", "zone", "found"),
    [
        (HEADER + "b,10,5,1\na,3,5.5,8.0\n", None, [("a", 0, 5.5, 8), ("b", 7, 5, 1)]),  # out of order
        ("\ufeff" + HEADER.replace("\n", "\r\n") + "a,1,2,0\r\n", None, [("a", 0, 2, 0)]),
        ("note,num_gpu, duration ,submission_time,job_id\nx,1,2,3,a\n", None, [("a", 0, 2, 1)]),
        (HEADER + f"a,{NOON}+01:00,3,1\nb,2026-01-31T11:00:01Z,3,1\n", None, [("a", 0, 3, 1), ("b", 1, 3, 1)]),
        # An hour between them is two on the day on which the clocks go back.
        (
            HEADER + "a,2026-10-25 01:30:00,3,1\nb,2026-10-25 03:30:00,3,1\n",
            "Europe/Berlin",
            [("a", 0, 3, 1), ("b", 10800, 3, 1)],
        ),
        (
            SACCT + f"1|{NOON}|COMPLETED|60|cpu=8,gres/gpu=8,mem=64G,node=1|x\n1.batch|{NOON}|COMPLETED|60|cpu=8|\n"
            f"2_1|{NOON}|CANCELLED by 5|6|cpu=8,gres/gpu:a100=2|x\n2_[3-4]|{NOON}|CANCELLED by 5|0||\n"
            f"3|{NOON}|CANCELLED by 5|0||gres/gpu=1\n",
            "UTC",
            [("1", 0, 60, 8), ("2_1", 0, 6, 2)],
        ),
        (f"JobID|Submit|State|Elapsed|ReqTRES\n7|{NOON}|FAILED|1-00:01:02|cpu=8,gres/gpu=3\n", "UTC", [("7", 0, 86462, 3)]),
        (json.dumps([JOB, {**JOB, "jobid": "b", "attempts": []}]), "America/Los_Angeles", [("a", 0, 120, 2)]),
    ],
)
def test_a_trace_in_each_format(text: str, zone: str | None, found: list[Any], tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, text), zone)
    assert rows(trace) == found
    assert sum(trace.left_out.values()) == (2 if "2_[" in text else int(text.startswith("[")))
    packed = read_trace(written(tmp_path, gzip.compress(text.encode()), "jobs.csv.gz"), zone)
    assert rows(packed) == found


def test_optional_columns(tmp_path: Path) -> None:
    header = HEADER.strip() + ",cpu,memory,gang\n"
    jobs = read_trace(written(tmp_path, header + "a,1,2,4,8,64Gi,2\nb,1,2,1,500m,,\n")).jobs
    assert jobs.cpus is not None
    assert jobs.memory is not None
    assert jobs.workers is not None
    assert (jobs.cpus.tolist(), jobs.memory.tolist(), jobs.workers.tolist()) == ([8, 0.5], [2**36, 0], [2, 0])
    assert not jobs.elastic
    jobs = read_trace(written(tmp_path, HEADER.strip() + ",max_gpu\na,1,2,4,8\nb,1,2,1,\n")).jobs
    assert jobs.least is not None
    assert jobs.most is not None
    assert (jobs.least.tolist(), jobs.most.tolist()) == ([4, 1], [8, 1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["is empty", "job_id, submission_time, duration, num_gpu"]),
        (HEADER, ["has no job"]),
        ("job_id,submit_time,duration\na,1,2\n", ["no column submission_time, num_gpu", "did you mean submit_time?"]),
        (
            HEADER + "a,1,-5,1\nb,x,,1.5\na,4,nan,-1\n,5,6,7\n",
            [
                "has 7 problems", "duration is -5 (line 2), but must be at least 0", "duration is empty (line 3), nan (line 4)",
                "submission_time is x (line 3), which is not a time", "num_gpu is 1.5 (line 3), but must be a whole number",
                "num_gpu is -1 (line 4)", "job_id is a (line 4), which another job has too", "job_id is empty (line 5)",
            ],
        ),
        (HEADER + "".join(f"{n},1,-1,1\n" for n in range(10)), ["-1 (line 2), -1 (line 3), -1 (line 4) and so in 7 more"]),
        (HEADER + f"a,{NOON},3,1\n", ["has no time zone", "--time-zone"]),
        (HEADER + f"a,12,3,1\nb,{NOON}Z,3,1\n", [f"{NOON}Z (line 3), but other lines have numbers"]),
        (HEADER + "a,1,2\n", ["is not a table", "Expected 4 columns, got 3"]),
        ("\x00\x01\x02", ["is not a table"]),
        (HEADER.strip() + ",memory\na,1,2,3,8\n", ["memory is 8 (line 2), which is not an amount of memory", "write 64Gi"]),
        (HEADER.strip() + ",gang\na,1,2,3,4\n", ["gang is 4 (line 2), more workers than num_gpu"]),
        (SACCT + f"1|{NOON}|RUNNING|60|gres/gpu=8|\n", ["jobs that have not ended", "1", "--state CD,F"]),
        ("JobID|Submit|State\n", ["has no column ElapsedRaw or Elapsed, AllocTRES or ReqTRES", "sacct"]),
        (
            HEADER.strip() + ",min_gpu,max_gpu\na,1,2,4,5,\nb,1,2,4,0,3\n",
            [
                "min_gpu is 5 (line 2), more than num_gpu", "min_gpu is 0 (line 3), but a job with GPUs has at least 1",
                "max_gpu is 3 (line 3), less than num_gpu",
            ],
        ),
        ("[1]", ["whose times have no zone", "America/Los_Angeles"]),
    ],
)  # fmt: skip
def test_a_bad_trace_is_one_message_with_every_problem(text: str, expected: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_trace(written(tmp_path, text))
    for part in expected:
        assert part in str(error.value)


def test_a_skipped_hour_an_unknown_zone_and_other_json(tmp_path: Path) -> None:
    skipped = written(tmp_path, HEADER + "a,2026-03-29 02:30:00,3,1\n")
    with pytest.raises(UserError, match=r"2026-03-29 02:30:00 \(line 2\), a time that the clocks of Europe/Berlin skipped"):
        read_trace(skipped, "Europe/Berlin")
    with pytest.raises(UserError, match=r"did you mean Europe/Berlin\?"):
        read_trace(skipped, "Europe/Berln")
    with pytest.raises(UserError, match="is not a list of jobs"):
        read_trace(written(tmp_path, '{"a": 1}'), "UTC")


def test_what_is_no_file_or_damaged_cannot_be_read(tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(b"%d,1,2,3\n" % n for n in range(50_000)))
    for path in (tmp_path, tmp_path / "none.csv", written(tmp_path, HEADER, "a.gz"), written(tmp_path, packed[:-500], "b.gz")):
        with pytest.raises(UserError, match=f"the trace {path} cannot be read"):
            read_trace(path)


def test_blocks_are_joined_and_duplicates_found_across_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heliostat.cluster.planner.trace.BLOCK", 1024)
    lines = [f"job-{n},{n % 97},1,{n % 9}\n" for n in range(2000)]
    jobs = read_trace(written(tmp_path, HEADER + "".join(lines))).jobs
    assert len(jobs) == 2000
    assert (jobs.submitted[1:] >= jobs.submitted[:-1]).all()
    assert all(int(jobs.name(row).removeprefix("job-")) % 97 == jobs.submitted[row] for row in (0, 1000, 1999))
    with pytest.raises(UserError, match=r"job_id is job-3 \(line 2002\)"):
        read_trace(written(tmp_path, HEADER + "".join([*lines, lines[3]])))
