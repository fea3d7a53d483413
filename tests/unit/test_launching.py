"""deme reproduce: what each process of this machine is given, what is passed to runs, and what is queued."""

import json
import os
import re
import subprocess

import pytest

from deme.cli.app import main
from deme.commands import local_launcher, slurm_queue, slurm_wait
from deme.commands.local_launcher import environments
from deme.commands.slurm_launcher import SlurmLauncher
from deme.commands.slurm_queue import SlurmQueue
from deme.runs import Suite
from deme.system import MissingInput
from deme.system.errors import BadConfig
from tests.made_runs import made_run

SUITE = """
suite: s
baseline: before
metrics: [loss]
finetune_seeds: [0]
sample_seeds: [100]
common: {evaluate: [metrics=loss], train: [logger=csv]}
rows:
  - {name: before, label: before, evaluate: []}
  - {name: a, label: a, train: [num_steps=10], evaluate: []}
"""


@pytest.fixture
def suite(in_tmp):
    (in_tmp / "suite.yaml").write_text(SUITE)
    return Suite.read(in_tmp / "suite.yaml")


@pytest.mark.parametrize(
    ("gpus", "jobs", "expected"),
    [
        (None, 1, [None]),
        ("0,1,2,3", 2, ["0", "1"]),
        ("4,GPU-8f2a", 3, ["4", "GPU-8f2a", "4"]),
        ("", 2, [None, None]),
        ("-1", 2, [None, None]),
    ],
)
def test_each_process_has_a_gpu_of_its_own_as_far_as_there_are_enough(
    gpus, jobs, expected, monkeypatch, tmp_path
):
    monkeypatch.setattr(local_launcher, "GPUS", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if gpus is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    assert [each.get("CUDA_VISIBLE_DEVICES") for each in environments(jobs)] == expected


def test_processes_share_the_cores_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [each["OMP_NUM_THREADS"] for each in environments(5)] == ["3"] * 5
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert not any("OMP_NUM_THREADS" in each for each in environments(5))


def test_a_logger_and_progress_are_those_of_all_runs_and_change_no_identity(suite):
    words = ("logger=tensorboard", "progress.log_every=7")
    other = Suite(suite.file, suite.runs, suite.settings, neutral=words)
    for one, two in zip(suite.nodes, other.nodes, strict=True):
        assert two.config["logger"]["_target_"].endswith("TensorBoard")
        assert two.config["progress"]["log_every"] == 7
        assert two.state == one.state
        if one.run is not None:
            assert two.run.identity == one.run.identity


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["launcher=slrum"], 2, "slurm"),
        (["launcher=slurm", "launcher.houres=2"], 2, "hours"),
        (["launcher=slurm", "launcher.hours=0"], 2, "launcher.hours must be a number"),
        (["logger=wandbb"], 2, "wandb"),
        (["progress.log_evry=2"], 2, "log_every"),
        (["retry=all"], 2, "failed"),
    ],
)
def test_slips_are_refused_before_any_work(words, code, part, suite, capsys):
    assert main(["reproduce", str(suite.file), *words]) == code
    assert part in capsys.readouterr().err
    assert not (suite.file.parent / "runs").exists()


def test_a_failed_run_is_kept_and_tried_again_only_if_it_is_asked_for(suite, monkeypatch, capsys):
    (train,) = (node for node in suite.nodes if node.stage == "train")
    (before,) = (node for node in suite.nodes if node.row == "before")
    failed = made_run(["train"], config=train.run.config)
    status = {"state": "failed", "error": "the loss became NaN", "exit_code": 4, "seconds": 2.0}
    (failed / "status.json").write_text(json.dumps(status))
    made_run(["evaluate"], config=before.run.config)
    called = []

    def fails(config):
        called.append(config)
        raise BadConfig("no")

    monkeypatch.setattr("deme.commands.suite_worker.stage_function", lambda stage: fails)
    monkeypatch.setattr("deme.commands.table.run", lambda suite: None)
    assert main(["reproduce", str(suite.file)]) == 4
    text = capsys.readouterr().err
    assert "the loss became NaN" in text
    assert "1 runs depend on failed ones" in text
    assert "retry=failed" in text
    assert not called
    assert main(["reproduce", str(suite.file), "retry=failed"]) == 2
    assert len(called) == 1


SQUEUE = (
    "12_0|RUNNING|None\n12_1|PENDING|Priority\n12_2|FAILED|NonZeroExitCode\n"
    "13|PENDING|Dependency\n99|RUNNING|None\n"
)
NEVER = "12_0|PENDING|PartitionTimeLimit\n13|PENDING|Dependency\n"
FAILED = "12_0|FAILED|NonZeroExitCode\n13|PENDING|Dependency\n"


def test_what_is_queued_is_told_with_its_jobs(suite, monkeypatch):
    queue = SlurmQueue(suite)
    assert queue.states() == {}
    queue.write({"workers": ["12"], "table": "13", "own": {"a train, seed 0": "14"}})
    monkeypatch.setattr(slurm_queue, "squeue", lambda name: SQUEUE)
    states = queue.states()
    assert {job: state.state for job, state in states.items()} == {
        "12_0": "RUNNING",
        "12_1": "PENDING",
        "13": "PENDING",
    }
    assert queue.lines(states) == [
        "workers: 1 running (12_0), 1 queued (12_1)",
        "table: 1 queued (13)",
    ]


def test_a_job_that_may_never_start_and_one_that_has_failed_are_told(suite, monkeypatch, caplog):
    queue = SlurmQueue(suite)
    queue.write({"workers": ["12"], "table": "13", "own": {}})
    answers = [NEVER, FAILED, ""]
    monkeypatch.setattr(slurm_queue, "squeue", lambda name: answers.pop(0))
    monkeypatch.setattr(slurm_wait, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(slurm_wait, "ASK_SECONDS", -1.0)
    slurm_wait.wait_for_suite(queue, lambda: None)
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len([text for text in warned if "PartitionTimeLimit" in text]) == 1
    assert "scancel 12 13" in warned[0]
    ended = [text for text in warned if "has ended" in text]
    assert ended == ["job 12_0 has ended: FAILED"]
    monkeypatch.setattr(slurm_queue, "squeue", lambda name: NEVER)
    assert "PartitionTimeLimit" in "; ".join(queue.lines(queue.states()))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reproduce", "{suite}", "launcher.partition=gpu"], "type: launcher=slurm launcher.partition=<value>"),
        (["reproduce", "{suite}", "-m"], "has no -m"),
        (["train", "launcher=slurm"], "launcher is no group of `deme train`, but of deme reproduce\n.*hydra/launcher"),
        (["train", "-m", "hydra/launcher=jobib", "seed=0,1"], "did you mean 'joblib'"),
    ],
)  # fmt: skip
def test_slips_with_launchers_say_what_to_type(words, message, suite, capsys):
    assert main([word.format(suite=suite.file) for word in words]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_without_slurm_there_is_one_message(suite, monkeypatch):
    def absent(*_, **__):
        raise FileNotFoundError("squeue")

    monkeypatch.setattr(subprocess, "run", absent)
    with pytest.raises(MissingInput, match="no squeue"):
        SlurmLauncher().run(suite, 2)
