#!/usr/bin/env python3
"""Throughput through the relay: four participants in network namespaces at several rates (tc tbf, each way) and 50 ms of latency from one to
another (delay.c: 25 ms from each to the server and back, for all that it says), ratio 128, int4, against the same run without network and against what `resbm plan` predicts for machines of such links that meet in
a relay. Stages compute nothing and take the time that pipeline.speed says, so that a busy machine tells little else. Also what the
server takes. The higher the speed, the larger the links' part of a step.

    throughput.py --resbm PROGRAM --out DIR [--rates 80,8] [--speeds 1.3e9] [--steps 4]

Ends with 1 where a run does not, sends other bytes than that without network, or is faster than its links allow by the simulator."""
import argparse, json, os, shutil, signal, subprocess, sys, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import internet

CONFIG = """model:    {d: 256, layers: 4, heads: 4, ffn: 704, vocab: 256, context: 256, segments: 4}
boundary: {kind: residual, ratio: 128, codec_fwd: int4, codec_bwd: int4}
data:     {train: "%s/corpus/train-*.bin", tokenizer: bytes, distribute: wire}
optim:    {kind: adamw, warmup: 1, schedule: constant}
train:    {steps: %d, batch: 8, microbatches: 8, eval_every: 0, checkpoint_every: 0}
pipeline: {stages: 4, threads: 1, device: timed, speed: %g}
"""
MACHINES = """machines:
  - {count: 4, flops: %g, up: %gmbit, down: %gmbit, latency: 25ms}
relay: {up: %gmbit, down: %gmbit, latency: 25ms, message: 62us, moves: 163M}
"""


def usage(pid):
    """Processor seconds and resident bytes of a process."""
    f = open("/proc/%d/stat" % pid).read().rsplit(")", 1)[1].split()
    return (int(f[11]) + int(f[12])) / os.sysconf("SC_CLK_TCK"), int(f[21]) * os.sysconf("SC_PAGE_SIZE")


def predicted(o, config, rate, speed):
    """Seconds per step by the planner's timing model."""
    machines = o.out + "/machines.yaml"
    with open(machines, "w") as f:
        f.write(MACHINES % (speed, rate, rate, rate, rate))
    return json.loads(internet.sh(o.resbm, "plan", "--json", "--own", "--machines", machines, config))["rows"][0]["step_s"]


def hosted(o, config, rate):
    net = internet.Net(5, rate, burst=max(3000, int(rate * 1e6 / 8 * 1e-3))) # a step's messages are small: none may pass unslowed
    run, procs, seen, until = "%s-at%g" % (config[:-5], rate), [], (0, 0), time.monotonic() + o.deadline
    env = dict(os.environ, OMP_NUM_THREADS="1")

    def start(machine, *argv):
        procs.append(subprocess.Popen(["ip", "netns", "exec", net.ns[machine], *argv], stdout=open(run + ".log", "a"), stderr=subprocess.STDOUT,
                                      stdin=subprocess.DEVNULL, env=env))
    try:
        start(0, o.resbm, "host", config, "--listen", "10.88.0.1:4222", "--out", run)
        while not os.path.exists(run + "/invitation"):
            time.sleep(0.1)
        far = internet.elsewhere(open(run + "/invitation").read(), "tls://127.0.0.1:4222")
        for i in range(1, 5):
            start(i, o.out + "/delay", "4222", "10.88.0.1", "4222", "25")
            start(i, o.resbm, "join", far, "--dir", "%s-guest%d" % (run, i))
        begin = None
        while procs[0].poll() is None:
            if time.monotonic() > until:
                sys.exit("the run over %g Mbit/s has not ended within %g s; the last words of %s.log:\n%s" % (
                    rate, o.deadline, run, "".join(open(run + ".log").readlines()[-12:])))
            time.sleep(0.5)
            try:
                pid = int(open(run + "/host/server.pid").read())
                if os.path.exists(run + "/metrics.jsonl"):
                    now = usage(pid)
                    begin = begin or (time.monotonic(), now[0])
                    seen = ((now[0] - begin[1]) / max(0.001, time.monotonic() - begin[0]), max(seen[1], now[1]))
            except (OSError, ValueError, IndexError):
                pass
    finally:
        for p in procs:
            p.send_signal(signal.SIGTERM)
        for p in procs:
            p.wait()
        net.close()
    return json.load(open(run + "/summary.json")), seen


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--resbm", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--rates", default="80,8")
    p.add_argument("--speeds", default="1.3e9", help="FLOP/s of a stage")
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--deadline", type=float, default=600, help="seconds for each run")
    o = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)) # so that namespaces and processes go
    o.resbm, o.out = os.path.abspath(o.resbm), os.path.abspath(o.out)
    shutil.rmtree(o.out, ignore_errors=True)
    os.makedirs(o.out)
    bad = 0
    with open(o.out + "/text", "w") as f:
        f.write("latent gradients cross a slow link. " * 20000)
    internet.sh("cc", "-O2", "-o", o.out + "/delay", os.path.dirname(os.path.abspath(__file__)) + "/delay.c")
    internet.sh(o.resbm, "data", "--out", o.out + "/corpus", o.out + "/text")
    print("| FLOP/s of a stage | link | s per step | of the speed without network | simulator | measured over it | wire ratio | server: share of a core | server: MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for speed in map(float, o.speeds.split(",")):
        config = "%s/speed-%g.yaml" % (o.out, speed)
        with open(config, "w") as f:
            f.write(CONFIG % (o.out, o.steps, speed))
        internet.sh(o.resbm, "train", "-q", config, "--out", config[:-5] + "-local")
        alone = json.load(open(config[:-5] + "-local/summary.json"))
        print("| %.3g | none (one machine, sockets) | %.3f | 1.000 | | | %.0f | | |" % (speed, alone["step_s"], alone["wire_ratio"]), flush=True)
        for rate in map(float, o.rates.split(",")):
            plan, (s, server) = predicted(o, config, rate, speed), hosted(o, config, rate)
            print("| %.3g | %g Mbit/s, 50 ms | %.3f | %.3f | %.3f | %.3f | %.0f | %.4f | %.0f |" % (
                speed, rate, s["step_s"], alone["step_s"] / s["step_s"], plan, s["step_s"] / plan, s["wire_ratio"], server[0], server[1] / 1e6), flush=True)
            if abs(s["wire_ratio"] / alone["wire_ratio"] - 1) > 0.01 or s["step_s"] < 0.9 * plan:
                print("FAILED: other bytes, or less time than the links take")
                bad = 1
    return bad


if __name__ == "__main__":
    sys.exit(main())
