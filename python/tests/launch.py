"""Starts a script as several gloo processes on loopback and gives back what each printed."""

import contextlib
import multiprocessing
import os
import random
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing import forkserver

#: Ranks are forks of a process that has these already: reading them would take each rank some seconds of a core.
_READ = (
    "torch.distributed.pipelining", "torch._dynamo", "torch.export", "resbm.torch", "transformers",
    "transformers.models.llama.modeling_llama", "transformers.models.qwen3.modeling_qwen3",
)  # fmt: skip
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(list(_READ))


def prepare():
    """Begins to read, beside what the caller does meanwhile."""
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    forkserver.ensure_running()


def free_port():
    """Below those that the system hands out: until the ranks listen there, nobody else gets it by chance."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as f:
        end = max(int(f.read().split()[0]), 4096)
    for _ in range(100):
        port = random.SystemRandom().randrange(end // 2, end)
        with contextlib.suppress(OSError), socket.socket() as s:
            s.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def _rank(script, arguments, environment, out):
    os.dup2(os.open(out, os.O_WRONLY | os.O_APPEND), 1)
    os.dup2(1, 2)
    os.environ.update(environment)
    sys.argv = [script, *arguments]
    sys.path.insert(0, os.path.dirname(script))
    runpy.run_path(script, run_name="__main__")


class _Forked:
    """A rank with the few methods of subprocess.Popen that are used here."""

    def __init__(self, *arguments):
        self._process = _FORKS.Process(target=_rank, args=arguments)
        self._process.start()

    def poll(self):
        return self._process.exitcode

    def kill(self):
        self._process.kill()

    def wait(self):
        self._process.join()
        return self._process.exitcode


def run(script, ranks, *arguments, timeout=240, prefix=None, **environment):
    """[(return code, output)] of each rank; all are killed at the deadline, or 20 s after one has failed.

    prefix: of each rank, what its command begins with.
    """
    env = dict(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()), WORLD_SIZE=str(ranks), GLOO_SOCKET_IFNAME="lo",
        OMP_NUM_THREADS="1",
    ) | environment  # fmt: skip
    files = [tempfile.NamedTemporaryFile("a+") for _ in range(ranks)]  # noqa: SIM115
    words, started = [str(script), [str(a) for a in arguments]], []
    for r, f in enumerate(files):
        mine = env | dict(RANK=str(r))
        if prefix:
            command = [*prefix[r], sys.executable, words[0], *words[1]]
            started.append(subprocess.Popen(command, env=os.environ | mine, stdout=f, stderr=f))
        else:
            started.append(_Forked(*words, mine, f.name))
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
