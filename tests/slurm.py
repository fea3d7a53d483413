"""A real SLURM on one machine for the tests: daemons on loopback, without systemd and cgroups.

It needs Debian's packages slurm-wlm and munge, and root.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
RequeueExit=75
SlurmctldPort=26817
SlurmdPort=26818
SrunPortRange=26900-26999
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
MpiDefault=none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=10
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 PriorityTier=1 State=UP PreemptMode=REQUEUE GraceTime=30
PartitionName=urgent Nodes={host} MaxTime=60 PriorityTier=10 State=UP
"""
MUNGE_KEY = Path("/etc/munge/munge.key")


def is_installed() -> bool:
    return os.geteuid() == 0 and all(map(shutil.which, ("slurmctld", "slurmd", "munged", "srun")))


def start(folder: Path, cpus: int) -> dict[str, str]:
    """Start the daemons, and return the environment variable that leads to them."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "/run/munge"], check=True)
    if not MUNGE_KEY.exists() or not MUNGE_KEY.stat().st_size:
        MUNGE_KEY.write_bytes(os.urandom(128))
        shutil.chown(MUNGE_KEY, "munge", "munge")
        MUNGE_KEY.chmod(0o600)
    if subprocess.run(["pgrep", "-x", "munged"], capture_output=True, check=False).returncode:
        subprocess.run(["runuser", "-u", "munge", "--", "/usr/sbin/munged"], check=True)
    host = os.uname().nodename.partition(".")[0]
    file = folder / "slurm.conf"
    file.write_text(CONFIGURATION.format(host=host, folder=folder, cpus=cpus))
    environment = {"SLURM_CONF": str(file)}
    subprocess.run(["slurmctld", "-f", str(file)], check=True, env=os.environ | environment)
    subprocess.run(
        ["slurmd", "-f", str(file), "-N", host], check=True, env=os.environ | environment
    )
    for _ in range(200):
        if ask("sinfo", "--noheader", "--partition=main", "--format=%T", env=environment) == "idle":
            return environment
        time.sleep(0.1)
    stop(folder)
    raise AssertionError((folder / "slurmctld.log").read_text())


def stop(folder: Path) -> None:
    for name in ("slurmd.pid", "slurmctld.pid"):
        if (folder / name).exists():
            os.kill(int((folder / name).read_text()), signal.SIGTERM)


def ask(*command: str, env: dict[str, str] | None = None) -> str:
    """Return what a command of SLURM prints."""
    found = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | (env or {})
    )
    return found.stdout.strip()
