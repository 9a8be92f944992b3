"""ranks.sh: torchrun starts lost ranks again, on one machine and on several, and slurm.sh requeues a stopped job.

The trainings are fairseq-train on gloo, on the tiny data. Machines are network namespaces of this one, each with an
agent of torchrun; Slurm's commands are stand-ins that run the script here, and record what is asked of them.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.training_run import ENVIRONMENT, REPOSITORY, ScriptTraining, assert_same

EXAMPLE = REPOSITORY / "examples" / "kosmos_1"

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize("script", sorted(EXAMPLE.glob("*.sh")), ids=lambda script: script.name)
def test_syntax(script):
    subprocess.run(["bash", "-n", script], check=True)


def test_the_status_of_a_failure(tmp_path):
    script = f"out={tmp_path}; micro_batches=1; GPUS=1; source {EXAMPLE}/ranks.sh; run_ranks --no-python false"
    environment = os.environ | ENVIRONMENT
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 1, done.stderr
    assert "exitcode  : 1" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [[0, 1], [1, 0], [0, 0]], ids=str)
def test_lost_ranks(undisturbed, data, tmp_path, ranks):
    """One after the other, each time after a new checkpoint."""
    training = ScriptTraining(data, tmp_path / "run", 2)
    process = training.start()
    for update, rank in zip((4, 8), ranks, strict=True):
        training.wait_for(lambda update=update: training.reached(update), process)
        before = training.ranks()
        os.kill(before[rank], signal.SIGKILL)
        training.wait_for(lambda before=before: before[0] not in training.ranks().values(), process)
    assert process.wait(timeout=240) == 0, training.output()[-3000:]
    assert_same(training, undisturbed)


class Node(ScriptTraining):
    """The script on one of two machines with a rank each: in a network namespace, with an address of its own."""

    def __init__(self, data: Path, folder: Path, number: int, **options):
        self.number = number
        super().__init__(data, folder, 2, **options)

    def launcher(self, ranks: int) -> list[str]:
        address = f"10.77.0.{self.number}"
        variables = [
            "GPUS_PER_NODE=1",
            "MASTER=10.77.0.1:29400",
            # of torchrun: --local-addr, and --rdzv-conf, since the name of this machine is of another network
            f"PET_LOCAL_ADDR={address}",
            f"PET_RDZV_CONF=is_host={int(self.number == 1)}",
            f"GLOO_SOCKET_IFNAME=kosmos{self.number}",
        ]
        env, *script = super().launcher(ranks)
        return ["ip", "netns", "exec", f"kosmos{self.number}", env, *variables, *script]

    def processes(self) -> list[int]:
        namespace = Path(f"/run/netns/kosmos{self.number}").stat().st_ino
        return [process for process in super().processes() if _network_of(process) == namespace]


def _network_of(process: int) -> int | None:
    try:
        return Path(f"/proc/{process}/ns/net").stat().st_ino
    except OSError:
        return None


@pytest.fixture
def network():
    """Two machines with a cable between them; a function that pulls it out or puts it in."""

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    def delete() -> None:
        for name in ("kosmos1", "kosmos2"):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)

    delete()
    try:
        ip("netns", "add", "kosmos1")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("network namespaces need root and iproute2")
    try:
        ip("netns", "add", "kosmos2")
        ip("-n", "kosmos1", "link", "add", "kosmos1", "type", "veth", "peer", "name", "kosmos2", "netns", "kosmos2")
        for number in (1, 2):
            ip("-n", f"kosmos{number}", "address", "add", f"10.77.0.{number}/24", "dev", f"kosmos{number}")
            ip("-n", f"kosmos{number}", "link", "set", f"kosmos{number}", "up")
            ip("-n", f"kosmos{number}", "link", "set", "lo", "up")
        yield lambda state: ip("-n", "kosmos2", "link", "set", "kosmos2", state)
    finally:
        delete()


def start_nodes(data: Path, folder: Path, **options) -> tuple[list[Node], list[subprocess.Popen]]:
    nodes = [Node(data, folder, number, **options) for number in (1, 2)]
    return nodes, [node.start() for node in nodes]


@pytest.mark.slow
def test_a_node_is_lost_and_back(undisturbed, data, tmp_path, network):
    nodes, processes = start_nodes(data, tmp_path / "run")
    nodes[0].wait_for(lambda: nodes[0].reached(5), processes[0])
    nodes[1].kill_all()
    processes[1].wait()
    time.sleep(5)
    assert processes[0].poll() is None, nodes[0].output()[-3000:]
    processes[1] = nodes[1].start()
    assert [process.wait(timeout=240) for process in processes] == [0, 0], nodes[0].output()[-5000:]
    assert_same(nodes[0], undisturbed)


@pytest.mark.slow
def test_a_node_loses_its_network(undisturbed, data, tmp_path, network):
    """No connection is closed: only the time without progress tells."""
    nodes, processes = start_nodes(data, tmp_path / "run", **{"stall-timeout": 10})
    nodes[0].wait_for(lambda: nodes[0].reached(5), processes[0])
    network("down")
    nodes[0].wait_for(lambda: "no progress for 10 seconds" in nodes[0].output(), processes[0])
    nodes[1].kill_all()  # the machine is switched off and on
    processes[1].wait()
    network("up")
    processes[1] = nodes[1].start()
    assert [process.wait(timeout=300) for process in processes] == [0, 0], nodes[0].output()[-5000:]
    assert_same(nodes[0], undisturbed)


@pytest.mark.slow
def test_a_signal_to_one_node_stops_both(undisturbed, data, tmp_path, network):
    nodes, processes = start_nodes(data, tmp_path / "run", **{"save-interval-updates": 0})
    nodes[0].wait_for(lambda: nodes[0].reached(5), processes[0])
    script = next(process for process in nodes[1].processes() if _is_script(process))
    os.kill(script, signal.SIGUSR1)
    assert [process.wait(timeout=120) for process in processes] == [75, 75], nodes[0].output()[-5000:]
    assert nodes[0].update_reached() == max(nodes[0].losses())
    nodes, processes = start_nodes(data, tmp_path / "run", **{"save-interval-updates": 0})
    assert [process.wait(timeout=240) for process in processes] == [0, 0], nodes[0].output()[-5000:]
    assert_same(nodes[0], undisturbed)


def _is_script(process: int) -> bool:
    return Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"bash\0-c")


SRUN = """#!/usr/bin/env bash
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$@" >> {calls}
[[ $1 == show ]] && echo "node0"
exit 0
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_slurm_requeues_a_stopped_job(undisturbed, data, tmp_path, number):
    """The job is started, signalled, and started again as Slurm would."""
    (tmp_path / "bin").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL.format(calls=tmp_path / "calls"))):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    training = ScriptTraining(data, tmp_path / "run", 2, **{"save-interval-updates": 0})
    launcher = training.launcher(2)
    *_, script, _ = launcher
    (tmp_path / "train.sh").write_text(script)
    arguments = training.command[len(launcher) :]
    training.command = ["bash", f"{EXAMPLE}/slurm.sh", str(tmp_path / "train.sh"), *arguments]
    job = {
        **ENVIRONMENT,
        "PATH": f"{tmp_path}/bin:{ENVIRONMENT['PATH']}",
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NODELIST": "node0",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_GPUS_ON_NODE": "2",
    }
    process = training.start(**job)
    training.wait_for(lambda: training.reached(4), process)
    os.kill(process.pid, number)
    assert process.wait(timeout=120) == 75, training.output()[-3000:]
    assert (tmp_path / "calls").read_text().splitlines()[-1] == "requeue 17"
    assert training.update_reached() == max(training.losses())
    assert training.start(**job).wait(timeout=240) == 0, training.output()[-3000:]
    assert_same(training, undisturbed)
    assert (tmp_path / "calls").read_text().count("requeue") == 1
