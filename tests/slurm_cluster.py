"""A real Slurm of one node on this machine, with its own configuration, ports and folders; for tests.

Needs Debian's ``slurm-wlm`` and ``munge``, and root. Nothing of an installed Slurm is read or changed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
CONFIGURATION = """
ClusterName=charloom-test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=100000
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill,NoShared
AccountingStorageType=accounting_storage/none
MpiDefault=none
GresTypes=gpu
MinJobAge=3600
KillWait=30
OverTimeLimit=0
ReturnToService=2
SlurmdTimeout=60
SlurmdParameters=config_overrides
InactiveLimit=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=16000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE DefMemPerCPU=100 State=UP OverSubscribe=NO
"""


def missing() -> str | None:
    """Why no cluster can be started here, or None."""
    absent = [name for name in PROGRAMS if not shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")]
    if absent:
        return f"Slurm is not installed ({', '.join(absent)}): apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "only root can start a Slurm"
    return None


class Cluster:
    """Started by the constructor, ended by :meth:`stop`; ``environment`` is what its clients need."""

    def __init__(self, folder: Path, cpus: int = 4, gpus: int = 2) -> None:
        self.folder = folder
        self.node = socket.gethostname().partition(".")[0]
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        # munged refuses folders that others can write to.
        folder.chmod(0o755)
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        ports = free_ports(2)
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(host=self.node, folder=folder, ports=ports, cpus=cpus, gpus=gpus)
        )
        for number in range(gpus):
            (folder / f"gpu{number}").touch()
        (folder / "gres.conf").write_text(f"NodeName={self.node} Name=gpu File={folder}/gpu[0-{gpus - 1}]\n")
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        path = os.environ["PATH"] + ":/usr/sbin:/sbin"
        # The plugin starts srun without SLURM_CONF, for it takes all of Slurm's variables away.
        (folder / "bin").mkdir()
        srun = folder / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun", path=path)} "$@"\n')
        srun.chmod(0o755)
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{folder}/bin:{path}",
        }
        self.daemons: list[subprocess.Popen[bytes]] = []
        try:
            own = [f"--{what}={folder}/munge.{what.partition('-')[0]}" for what in ("socket", "key-file", "pid-file")]
            own += [f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
            self.start("munged", "--foreground", "--force", *own)
            self.until(lambda: (folder / "munge.socket").exists())
            self.start("slurmctld", "-D", "-i")
            self.start("slurmd", "-D")
            self.until(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%t"))
        except BaseException:
            self.stop()
            raise

    def start(self, *command: str) -> None:
        """Start a daemon in the foreground of a process of ours."""
        log = open(self.folder / f"{command[0]}.out", "wb")
        with log:
            self.daemons.append(
                subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd=self.folder)
            )

    def ask(self, *command: str) -> str:
        """What a client prints."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=30).stdout

    def until(self, done, seconds: float = 30.0) -> None:
        """Wait for something; a daemon that ended is an error."""
        deadline = time.monotonic() + seconds
        while not done():
            ended = [one.args for one in self.daemons if one.poll() is not None]
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"{ended or 'time is up'}: {self.said()}")
            time.sleep(0.2)

    def said(self) -> str:
        """The end of the daemons' logs."""
        files = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
        return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in files)

    def stop(self) -> None:
        """End all jobs and daemons."""
        if self.daemons[1:]:
            # Before the daemons: what they leave behind runs on.
            self.ask("scancel", "--user=root", "--state=PENDING")
            self.ask("scancel", "--user=root", "--signal=KILL", "--full")
            deadline = time.monotonic() + 20
            while self.ask("squeue", "-h", "--states=RUNNING,COMPLETING") and time.monotonic() < deadline:
                time.sleep(0.2)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
