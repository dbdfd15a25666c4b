"""Starts a script as several gloo processes on loopback and gives back what each printed."""

import os
import socket
import subprocess
import sys
import tempfile
import time


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(script, ranks, *arguments, timeout=240, prefix=None, **environment):
    """[(return code, output)] of each rank; all are killed at the deadline, or 20 s after one has failed.

    prefix: of each rank, what its command begins with.
    """
    env = os.environ | dict(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()), WORLD_SIZE=str(ranks), GLOO_SOCKET_IFNAME="lo",
        OMP_NUM_THREADS="1", TORCH_CPP_LOG_LEVEL="ERROR",
    ) | environment  # fmt: skip
    files = [tempfile.TemporaryFile("w+") for _ in range(ranks)]  # noqa: SIM115
    started = [
        subprocess.Popen(
            [*(prefix[r] if prefix else ()), sys.executable, str(script), *map(str, arguments)],
            env=env | dict(RANK=str(r)),
            stdout=f,
            stderr=f,
        )
        for r, f in enumerate(files)
    ]
    end = time.monotonic() + timeout
    while any(p.poll() is None for p in started) and time.monotonic() < end:
        if any(p.poll() for p in started):
            end = min(end, time.monotonic() + 20)
        time.sleep(0.1)
    results = []
    for p, f in zip(started, files):
        p.kill()
        code = p.wait()
        f.seek(0)
        results.append((code, f.read()))
        f.close()
    return results
