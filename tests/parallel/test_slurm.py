"""The array script under a real Slurm: a controller and one node that belong to this test alone."""

import os
import platform
import shutil
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT, all_files, job_words, wait_for

NEEDED = ("slurmctld", "slurmd", "sbatch", "scontrol", "munged")
MISSING = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"no Slurm here ({', '.join(MISSING)} not found; Debian: slurm-wlm)"),
    pytest.mark.skipif(os.name == "posix" and os.geteuid() != 0, reason="starting a Slurm node takes root"),
]
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES State=UP OverSubscribe=FORCE:4
"""


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for bound in sockets:
        bound.bind(("127.0.0.1", 0))
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports


@pytest.fixture
def slurm(tmp_path):
    """Run a Slurm command on the test's own cluster."""
    folder = tmp_path / "slurm"
    folder.mkdir(mode=0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    host = platform.node().split(".")[0]
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, folder=folder, ports=free_ports(2), cpus=os.cpu_count()))
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    environment = {**os.environ, "SLURM_CONF": str(config), "PATH": path}
    munge = [f"--socket={folder}/munge.socket", f"--key-file={key}", f"--pid-file={folder}/munged.pid"]
    munge += [f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed", "--force", "--foreground"]
    daemons = [["munged", *munge], ["slurmctld", "-D", "-i"], ["slurmd", "-D", "-N", host]]
    log = (folder / "daemons.log").open("w")
    processes = []

    def run(*words):
        done = subprocess.run(
            list(map(str, words)), env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    try:
        for words in daemons:
            processes.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log))
            time.sleep(1)
        assert wait_for(lambda: "idle" in run("sinfo", "-h", "-o", "%T"), 60), (folder / "slurmctld.log").read_text()
        yield run
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in reversed(processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        log.close()


def test_an_array_shares_the_runs_is_stopped_is_requeued_and_finishes(slurm, finished_job, tiny_encoder, tmp_path):
    output = tmp_path / "out"
    words = job_words(tiny_encoder, output, save_strategy="steps", save_steps=1)
    logs = ("--output", tmp_path / "slurm-%A_%a.log", f"--export=ALL,PYTHON={sys.executable}")
    job = slurm("sbatch", "--parsable", "--array=0-1", *logs, "cluster/slurm_array.sh", *words)
    assert wait_for(lambda: len(list(output.glob("*/fold-*/DONE"))) >= 3, 180)
    slurm("scancel", "--signal=TERM", "--batch", f"{job}_0")  # what --signal=B:TERM@120 sends before a time limit
    log = tmp_path / f"slurm-{job}_0.log"
    assert wait_for(lambda: "stopped from outside" in log.read_text(), 60), log.read_text()

    def completed() -> bool:
        states = slurm("squeue", "-h", "-a", "-r", "-t", "all", "-j", job, "-o", "%T").split()
        time.sleep(0.5)
        return states == ["COMPLETED", "COMPLETED"]

    assert wait_for(completed, 400), slurm("squeue", "-a", "-t", "all")
    assert log.read_text().count("task5: 60 labelled tweets") == 2  # element 0 was started twice
    assert all_files(output) == all_files(finished_job.folder)
