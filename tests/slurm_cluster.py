"""A Slurm cluster of this machine alone: munged, slurmctld and slurmd, in a folder of their own."""

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def is_installed():
    """Are Slurm and munge here, as Debian's slurm-wlm and munge have them, and may they start?"""
    return os.geteuid() == 0 and all(shutil.which(program) for program in PROGRAMS)


@contextmanager
def slurm_cluster(folder):
    """Start a cluster for the block; yields the environment that its commands need."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    ports = [_free_port(), _free_port()]
    text = CONFIGURATION.format(
        host=socket.gethostname(), user="root", folder=folder, cpus=os.cpu_count(),
        controller_port=ports[0], node_port=ports[1],
    )  # fmt: skip
    (folder / "slurm.conf").write_text(text)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    munge = [
        f"--{name}={folder}/munge.{name.split('-')[0]}"
        for name in ("key-file", "socket", "pid-file", "log-file", "seed-file")
    ]
    commands = [
        ["munged", "--foreground", "--force", *munge],
        ["slurmctld", "-D", "-c", "-f", f"{folder}/slurm.conf"],
        ["slurmd", "-D", "-c", "-f", f"{folder}/slurm.conf"],
    ]
    started = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("w") as log:
                started.append(
                    subprocess.Popen(command, env=environment, stdout=log, stderr=log)
                )
            time.sleep(1)
        _wait_for_node(folder, environment)
        yield environment
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def _wait_for_node(folder, environment):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        command = ["sinfo", "--noheader", "--format=%T"]
        said = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        if said.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = [f"{path.name}: {path.read_text()[-800:]}" for path in folder.glob("*.out")]
    raise AssertionError("\n".join([said.stdout, said.stderr, *logs]))


def _free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
