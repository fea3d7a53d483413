"""Who a process is among several, by what torchrun and srun leave in its environment."""

import subprocess

import pytest

from deme.system import WorkFailed, processes
from deme.system.processes import World, first_host

SRUN = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NODELIST": "gpu[07-10],x1",
        "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "2"}  # fmt: skip
TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "1234",
}


def world_of(monkeypatch, env):
    for name in [*SRUN, *TORCHRUN, "SLURM_NTASKS", "SLURM_NODELIST"]:
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return processes.world()


@pytest.mark.parametrize(
    "env",
    [
        {},
        {**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"},
        {
            "SLURM_NTASKS": "8",
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
            "SLURM_JOB_ID": "1",
        },  # a batch script's own
        {
            **SRUN,
            "SLURM_STEP_NUM_TASKS": "1",
            "SLURM_PROCID": "0",
        },  # an interactive allocation's shell
    ],
    ids=["nothing", "torchrun of one", "batch script of eight tasks", "srun of one"],
)
def test_a_process_is_alone_unless_it_was_started_as_one_of_several(env, monkeypatch):
    assert world_of(monkeypatch, env) == World()


def test_torchrun_and_srun_say_who_is_who(monkeypatch):
    assert world_of(monkeypatch, TORCHRUN) == World(3, 4, 1, "10.0.0.1", 1234)
    found = world_of(monkeypatch, SRUN)
    assert (found.rank, found.size, found.local_rank, found.address) == (5, 8, 1, "gpu07")
    assert 15000 <= found.port < 30000
    assert world_of(monkeypatch, {**SRUN, "SLURM_STEP_ID": "3"}).port != found.port
    assert world_of(monkeypatch, {**SRUN, **TORCHRUN}).rank == 3


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("node[07-09,12],other", "node07"),
        ("r[2,4]-ib,x", "r2-ib"),
        ("gpu-a[1-3]", "gpu-a1"),
    ],
)
def test_the_first_host_of_a_list(nodes, first):
    assert first_host(nodes) == first


def test_helpers_that_run_end_when_another_one_cannot_be_started(monkeypatch):
    started, real = [], subprocess.Popen

    def limited(command, env):
        if started:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        started.append(real(["sleep", "1000"]))
        return started[0]

    monkeypatch.setattr(processes.subprocess, "Popen", limited)
    with (
        pytest.raises(WorkFailed, match="a helper process cannot be started: Resource"),
        processes.helpers("module", [[], []]),
    ):
        pass
    assert started[0].returncode == -15
