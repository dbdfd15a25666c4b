#!/usr/bin/env python3
"""What a NATS server takes as a relay: memory for a participant, processor time for a message and for its bytes, measured with many TLS
connections that send to their neighbours. Prints a table and the numbers for the `relay:` of a list of machines (docs/plans.md).

    bench/relay.py build/crowd [--counts 50,200,400] [--bytes 256,4096,65536] [--messages 40]"""

import argparse
import os
import socket
import subprocess
import tempfile
import time

CONFIG = """listen: "127.0.0.1:{port}"
tls {{ cert_file: "{folder}/cert.pem", key_file: "{folder}/key.pem", timeout: 20 }}
max_payload: 1048576
"""


def usage(pid):
    """Processor seconds and resident bytes of a process."""
    with open(f"/proc/{pid}/stat") as f:
        field = f.read().rsplit(")", 1)[1].split()
    return (int(field[11]) + int(field[12])) / os.sysconf("SC_CLK_TCK"), int(field[21]) * os.sysconf("SC_PAGE_SIZE")


def start_server(folder):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=relay", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{folder}/key.pem",
                    "-out", f"{folder}/cert.pem"], check=True, capture_output=True)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with open(f"{folder}/server.conf", "w") as f:
        f.write(CONFIG.format(folder=folder, port=port))
    server = subprocess.Popen(["nats-server", "-c", f"{folder}/server.conf"], stderr=subprocess.DEVNULL)
    for _ in range(200):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return server, port
        time.sleep(0.05)
    raise SystemExit("relay: nats-server does not come up")


def one(a, count, size, messages):
    """Resident bytes with count connections; processor seconds per message of that size."""
    with tempfile.TemporaryDirectory() as folder:
        server, port = start_server(folder)
        crowd = subprocess.Popen([a.crowd, f"nats://127.0.0.1:{port}", f"{folder}/cert.pem", str(count), str(messages), str(size)],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            crowd.stdout.readline()
            time.sleep(1)
            before, rss = usage(server.pid)
            crowd.stdin.write("\n")
            crowd.stdin.flush()
            if crowd.stdout.readline() != "done\n":
                raise SystemExit("relay: messages were lost")
            spent = usage(server.pid)[0] - before
            crowd.communicate("\n", timeout=60)
        finally:
            crowd.kill()
            server.terminate()
            server.wait()
    return rss, spent / (count * messages)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("crowd")
    p.add_argument("--counts", default="50,200,400")
    p.add_argument("--bytes", default="256,4096,65536")
    p.add_argument("--messages", type=int, default=40, help="that each participant sends")
    a = p.parse_args()
    counts, sizes = [int(x) for x in a.counts.split(",")], [int(x) for x in a.bytes.split(",")]
    print("| participants | message, bytes | server, MB | processor, us a message |\n|---|---|---|---|")
    rss, cost = {}, {}
    for n in counts:
        rss[n], per = one(a, n, sizes[0], a.messages)
        print(f"| {n} | {sizes[0]} | {rss[n] / 1e6:.1f} | {1e6 * per:.1f} |", flush=True)
    for size in sizes:
        held, cost[size] = one(a, counts[0], size, a.messages * 5)
        print(f"| {counts[0]} | {size} | {held / 1e6:.1f} | {1e6 * cost[size]:.1f} |", flush=True)
    each = (rss[counts[-1]] - rss[counts[0]]) / (counts[-1] - counts[0])
    byte = (cost[sizes[-1]] - cost[sizes[0]]) / (sizes[-1] - sizes[0])
    message = cost[sizes[0]] - byte * sizes[0]
    print(f"\nparticipant: {each / 1e3:.0f}K, message: {1e6 * message:.1f}us, moves: {1e-6 / max(byte, 1e-15):.0f}M")


if __name__ == "__main__":
    main()
