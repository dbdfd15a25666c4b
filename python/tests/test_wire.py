"""Two network namespaces with an interface of 80 Mbit/s each way between them: bytes that left are bytes reported.

pytest -s prints the row of docs/pytorch.md's table.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from launch import run
from test_examples import EXAMPLES

SIZES = dict(DIM="256", LAYERS="2", HEADS="4", VOCAB="64", BATCH="32", LENGTH="128", MICROBATCHES="4")
STEPS = int(os.environ.get("RESBM_WIRE_STEPS", "3"))


def ip(*words):
    subprocess.run(words, check=True, capture_output=True, timeout=30)


@pytest.fixture
def namespaces():
    """Names of two namespaces; each has an interface `data`, 10.178.1.1 and .2, sending at most 80 Mbit/s."""
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("tc"):
        pytest.skip("network namespaces need root, ip and tc")
    names = [f"rbt{c}{os.getpid()}" for c in "ab"]
    try:
        try:
            ip("ip", "netns", "add", names[0])
        except subprocess.CalledProcessError as e:
            pytest.skip(f"no network namespaces here: {e.stderr.decode().strip()}")
        ip("ip", "netns", "add", names[1])
        ip("ip", "link", "add", "data", "netns", names[0], "type", "veth", "peer", "name", "data", "netns", names[1])
        for i, n in enumerate(names):
            ip("ip", "netns", "exec", n, "sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1")
            ip("ip", "-n", n, "link", "set", "lo", "up")
            ip("ip", "-n", n, "addr", "add", f"10.178.1.{i + 1}/24", "dev", "data")
            ip("ip", "-n", n, "link", "set", "data", "up")
            shape = ("tbf", "rate", "80mbit", "burst", "16kb", "latency", "500ms")
            ip("tc", "-n", n, "qdisc", "add", "dev", "data", "root", *shape)
        yield names
    finally:
        for n in names:
            subprocess.run(("ip", "netns", "del", n), capture_output=True, timeout=30)


def measured(namespaces, out):
    """[rank][0: torch's stage, 1: ours] of wire_worker.py."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = run(
        Path(__file__).with_name("wire_worker.py"), 2, out, STEPS, "data",
        EXAMPLES / "pipeline.py", EXAMPLES / "pipeline_resbm.py", timeout=400, PYTHONPATH=path,
        prefix=[("ip", "netns", "exec", n) for n in namespaces], MASTER_ADDR="10.178.1.1", GLOO_SOCKET_IFNAME="data",
        **SIZES,
    )  # fmt: skip
    assert all(code == 0 for code, _ in done), "\n".join(out for _, out in done)
    return [json.loads((out / f"{r}.json").read_text()) for r in range(2)]


def test_bytes_on_the_interface_are_those_reported(namespaces, tmp_path):
    ends = measured(namespaces, tmp_path)
    for name, (plain, packed), others in zip(("activations", "gradients"), ends, reversed(ends)):
        assert plain["reported"] == 0 and packed["reported"] > 0
        payloads = plain["float32"], packed["reported"]
        for end, other, payload in zip((plain, packed), others, payloads):
            wire, packets, messages = end["interface"]["tx_bytes"], end["interface"]["tx_packets"], end["messages"]
            # A machine too busy to acknowledge makes TCP send again, and acknowledgements then name what had come.
            again, gaps = end["interface"]["again"], end["interface"]["unordered"] or other["interface"]["again"]
            print(f"{name}: {wire} bytes left in {packets} packets, {payload} of them payload of {messages} messages")
            notices = 256 * messages  # gloo says of each message how long it is and that it may come
            headers = (94 if gaps else 66) * packets
            assert payload <= wire <= payload + 1448 * again + headers + notices + 4096, (name, end, other)
    plain, packed = ends[1]
    for kind, end in (("torch", plain), ("resbm", packed)):
        print(f"{kind}: {end['tokens'] / end['seconds']:.0f} tokens/s")
    assert plain["seconds"] > 0.9 * plain["float32"] * 8 / 80e6  # the interface is really that slow
