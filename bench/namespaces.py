"""Two network namespaces joined by two veth pairs: `data`, which `tc tbf` slows in both directions, and `control`."""

import os
import shutil
import subprocess


def sh(*args):
    subprocess.run(args, check=True, capture_output=True, text=True)


class Namespaces:
    """with Namespaces(rate="1mbit") as n: n.command(stage) is the prefix that runs a program in that stage's end."""

    def __init__(self, rate):
        self.rate = rate
        self.names = [f"resbm-bench-{os.getpid()}-{i}" for i in range(2)]

    @staticmethod
    def missing():
        """Why there can be none here, or None."""
        if os.geteuid() != 0:
            return "network namespaces need root"
        for tool in ("ip", "tc"):
            if not shutil.which(tool):
                return f"no {tool} (Debian: iproute2)"
        probe = f"resbm-bench-{os.getpid()}"
        if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode:
            return "`ip netns add` is not permitted here"
        subprocess.run(["ip", "netns", "del", probe])
        return None

    def __enter__(self):
        try:
            for name in self.names:
                sh("ip", "netns", "add", name)
                sh("ip", "-n", name, "link", "set", "lo", "up")
            for net, pair in enumerate(("control", "data")):
                sh("ip", "link", "add", pair, "netns", self.names[0], "type", "veth", "peer", "name", pair, "netns",
                   self.names[1])
                for end, name in enumerate(self.names):
                    sh("ip", "-n", name, "addr", "add", f"10.179.{net}.{end + 1}/24", "dev", pair)
                    sh("ip", "-n", name, "link", "set", pair, "up")
            for name in self.names:  # one segment at a time: tbf drops what is larger than its burst
                sh("ip", "-n", name, "link", "set", "data", "gso_max_segs", "1")
                sh("tc", "-n", name, "qdisc", "replace", "dev", "data", "root", "tbf", "rate", self.rate, "burst", "3000",
                   "limit", "1000000")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def command(self, stage):
        return ["ip", "netns", "exec", self.names[stage]]

    @staticmethod
    def data(stage):
        return f"10.179.1.{stage + 1}"

    @staticmethod
    def control(stage):
        return f"10.179.0.{stage + 1}"
