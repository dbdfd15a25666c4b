"""Starts a script as several gloo processes on loopback and gives back what each printed."""

import os
import socket
import subprocess
import sys


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(script, ranks, *arguments, timeout=240, **environment):
    """[(return code, output)] of each rank; all are killed at the deadline."""
    env = os.environ | dict(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()), WORLD_SIZE=str(ranks), GLOO_SOCKET_IFNAME="lo",
        OMP_NUM_THREADS="1", TORCH_CPP_LOG_LEVEL="ERROR", **environment,
    )  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            env=env | dict(RANK=str(r)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for r in range(ranks)
    ]
    try:
        return [(p.communicate(timeout=timeout)[0], p.returncode)[::-1] for p in started]
    finally:
        for p in started:
            p.kill()
            p.wait()
