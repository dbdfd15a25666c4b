#!/usr/bin/env python3
"""A run across machines under faults: network namespaces are the machines, tc tbf their rates, latency is added in user space.

    internet.py --resbm PROGRAM --out DIR [--seed N] [--rounds N | --seconds N] [--kinds a,b] [--together N] [--spares N] [--replicas] [--evaluate] [--report FILE]

One host and five participants (four stages and a spare; more with --spares) train a small model. In every round one to `together` faults are drawn from
the seed and happen at random moments; then the run must get past the farthest step it had committed, by itself. At the end
(and at every snapshot) the weights' hashes, and the losses of every step, must be those of a single process without network or
faults. With --replicas the four processes are two stages held twice each: a loss then changes the deal and with it the rounding, which
training amplifies: losses may be five times as far from the single process's as those of calm runs with other deals have been up to the same
step, and weights are not compared; with --local-steps neither are. Needs root and iproute2. Exit status 0: all held; 77: this machine has no network namespaces."""
import argparse, base64, collections, json, os, random, re, shutil, signal, statistics, subprocess, sys, time

import growth

GUESTS, STAGES = 5, 4
CHURN = ["kill_stage", "stop_participant", "late_joiner", "link_down_1s", "one_direction", "rate_to_a_tenth"]
CONFIG = """model:    {d: 64, layers: 4, heads: 2, ffn: 64, vocab: 256, context: 16, segments: 4}
boundary: {kind: residual, ratio: 8, hidden: 16, codec_fwd: int4, codec_bwd: int4}
data:     {train: "%s/corpus/train-*.bin", tokenizer: bytes}
optim:    {warmup: 2, schedule: constant}
train:    {seed: 3, steps: 1000000, batch: 4, microbatches: 2, eval_every: 0, checkpoint_every: 10, keep: 3}
pipeline: {stages: 4, threads: 1, deadline: 20s, startup_deadline: 30s}
link:     {latency: 10ms}
"""


def sh(*a, ok=False):
    r = subprocess.run(a, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if r.returncode and not ok:
        raise RuntimeError(" ".join(a) + ": " + r.stdout)
    return r.stdout


TWICE = CONFIG.replace("codec_fwd: int4, codec_bwd: int4", "codec_fwd: f32, codec_bwd: f32").replace("{warmup: 2,", "{kind: adamw, lr: 0.0005, warmup: 2,") \
    .replace("microbatches: 2,", "microbatches: 4,").replace("{stages: 4,", "{stages: 2, replicas: 2, deal: even,")


def elsewhere(invitation, url):
    """That invitation, dialled at another address."""
    head, body = invitation.strip().split(".", 1)
    j = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    j["url"] = url
    return head + "." + base64.urlsafe_b64encode(json.dumps(j, separators=(",", ":")).encode()).decode().rstrip("=")


class Net:
    """A bridge in a namespace of its own; one namespace per machine. Machine 0 is the host. burst: bytes that pass a line at once."""

    def __init__(self, machines, rate, burst=65536):
        self.id, self.rate, self.burst = "rb%d" % os.getpid(), rate, burst
        self.ns = ["%sm%d" % (self.id, i) for i in range(machines)]
        self.hub = self.id + "hub"
        sh("ip", "netns", "add", self.hub)
        sh("ip", "-n", self.hub, "link", "add", "name", "br0", "type", "bridge")
        sh("ip", "-n", self.hub, "link", "set", "br0", "up")
        for i, ns in enumerate(self.ns):
            sh("ip", "netns", "add", ns)
            sh("ip", "-n", ns, "link", "set", "lo", "up")
            sh("ip", "link", "add", "eth0", "netns", ns, "type", "veth", "peer", "name", "p%d" % i, "netns", self.hub)
            sh("ip", "-n", self.hub, "link", "set", "p%d" % i, "master", "br0", "up")
            sh("ip", "-n", ns, "addr", "add", "10.88.0.%d/24" % (i + 1), "dev", "eth0")
            sh("ip", "-n", ns, "link", "set", "eth0", "up")
            self.set_rate(i, rate)

    def set_rate(self, i, mbit):
        for ns, dev in ((self.ns[i], "eth0"), (self.hub, "p%d" % i)):
            sh("tc", "-n", ns, "qdisc", "replace", "dev", dev, "root", "tbf", "rate", "%gmbit" % mbit, "burst", str(self.burst), "latency", "300ms")

    def up(self, i, up):
        sh("ip", "-n", self.hub, "link", "set", "p%d" % i, "up" if up else "down")

    def mute(self, i, on):
        """Nothing leaves the machine; what comes still comes."""
        sh("ip", "-n", self.ns[i], "route", "add" if on else "del", "blackhole", "10.88.0.1/32", ok=True)

    def close(self):
        for ns in self.ns + [self.hub]:
            sh("ip", "netns", "del", ns, ok=True)


class Run:
    def __init__(self, o):
        self.o, self.rng = o, random.Random(o.seed)
        self.dir = os.path.abspath(o.out)
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir)
        self.run = self.dir + "/run"
        self.log = open(self.dir + "/harness.log", "w")
        self.guests, self.mounted, self.later, self.extra = {}, [], [], {}
        self.seen, self.far, self.hashes, self.losses, self.bad = 0, 0, {}, {}, []
        self.heard, self.waiting, self.waits = 0, None, [] # of host.log; since when the host waits for participants; when it did
        self.growth, self.tokens = None, set()
        self.recovery = collections.defaultdict(list)
        self.count = collections.Counter()
        self.stuck = []
        self.net = Net(GUESTS + 2, o.rate)

    def say(self, text):
        line = "%8.2f  %s" % (time.monotonic() - self.begin, text)
        print(line, file=self.log, flush=True)
        if self.o.verbose:
            print(line, flush=True)

    def miss(self, text):
        self.bad.append(text)
        self.say("FAILED: " + text)

    # --- processes

    def popen(self, machine, argv, log, env=None):
        e = dict(os.environ, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", **(env or {}))
        return subprocess.Popen(["ip", "netns", "exec", self.net.ns[machine]] + argv, stdout=open(log, "a"), stderr=subprocess.STDOUT,
                                stdin=subprocess.DEVNULL, env=e, start_new_session=True)

    def prepare(self):
        words = "the of a slow link carries latent gradients between stages and every segment learns".split()
        r = random.Random(7)
        with open(self.dir + "/text", "w") as f:
            f.write(" ".join(r.choice(words) + (".\n" if r.random() < 0.1 else "") for _ in range(20000)))
        sh(self.o.resbm, "data", "--out", self.dir + "/corpus", self.dir + "/text")
        with open(self.dir + "/run.yaml", "w") as f:
            text = TWICE if self.o.replicas else CONFIG
            if self.o.evaluate:
                text = text.replace('tokenizer: bytes', 'val: "%s/corpus/train-*.bin", tokenizer: bytes' % self.dir).replace("eval_every: 0", "eval_every: 10, eval_sequences: 400")
            f.write((text.replace("optim:    {", "optim:    {local_steps: %d, " % self.o.local_steps) if self.o.local_steps else text) % self.dir)
        sh("cc", "-O1", "-o", self.dir + "/stuck", os.path.dirname(os.path.abspath(__file__)) + "/stuck.c")
        sh("cc", "-shared", "-fPIC", "-O1", "-o", self.dir + "/skew.so", os.path.dirname(os.path.abspath(__file__)) + "/skew.c")
        self.begin = time.monotonic()
        self.start_host()
        self.wait_for(lambda: os.path.exists(self.run + "/invitation"), 60, "an invitation")
        for i in range(1, GUESTS + 1):
            os.makedirs(self.dir + "/guest%d" % i)
            try: # a disk that can be filled without filling this machine's
                sh("mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "resbm-test", self.dir + "/guest%d" % i)
                self.mounted.append(self.dir + "/guest%d" % i)
            except RuntimeError as e:
                print("no disk_full: " + str(e), flush=True)
            self.start_guest(i)
        self.wait_for(lambda: self.far >= 3, 90, "the first steps")

    def start_host(self):
        self.host = self.popen(0, [self.o.resbm, "host", self.dir + "/run.yaml", "--listen", "10.88.0.1:4222", "--out", self.run], self.dir + "/host.out")

    def start_guest(self, i, env=None, name=None):
        name = name or "guest%d" % i
        p = self.popen(i, [self.o.resbm, "join", self.run + "/invitation", "--dir", self.dir + "/" + name, "--name", name], self.dir + "/%s.out" % name, env)
        (self.guests if name.startswith("guest") else self.extra)[i] = p
        return p

    def pids(self, machine, pattern):
        """Processes of a machine whose command line holds the pattern."""
        found = []
        for pid in sh("ip", "netns", "pids", self.net.ns[machine]).split():
            try:
                with open("/proc/%s/cmdline" % pid) as f:
                    if re.search(pattern, f.read().replace("\0", " ")):
                        found.append(int(pid))
            except OSError:
                pass
        return found

    def signal(self, machine, pattern, sig):
        n = 0
        for pid in self.pids(machine, pattern):
            try:
                os.kill(pid, sig)
                n += 1
            except ProcessLookupError:
                pass
        return n

    # --- what the run does

    def look(self):
        """Reads the newest steps, and the hashes of every snapshot that is there."""
        try:
            with open(self.run + "/metrics.jsonl") as f:
                f.seek(max(0, os.fstat(f.fileno()).st_size - 20000))
                lines = f.read().split("\n")[1 if f.tell() > 20000 else 0:-1]
        except OSError:
            lines = []
        for line in lines:
            try:
                m = json.loads(line)
            except ValueError:
                continue
            was = self.losses.setdefault(m["step"], m["loss"])
            if self.other(was, m["loss"]):
                self.miss("step %d has loss %r, it had %r" % (m["step"], m["loss"], was))
                self.losses[m["step"]] = m["loss"]
            self.far = max(self.far, m["step"])
        for d in os.listdir(self.run) if os.path.isdir(self.run) else []:
            if not re.fullmatch(r"step-\d+", d) or d in self.hashes:
                continue
            try:
                with open("%s/%s/manifest.json" % (self.run, d)) as f:
                    self.hashes[d] = sorted((x["name"], x["hash"]) for x in json.load(f)["files"])
            except (OSError, ValueError):
                pass

    def listen(self):
        """What the host says goes into the harness's log with the time, and when it waits because there are too few participants is kept."""
        try:
            with open(self.run + "/host.log", errors="replace") as f:
                f.seek(self.heard)
                text = f.read()
        except OSError:
            return
        whole = text.rfind("\n") + 1
        self.heard += len(text[:whole].encode())
        now = time.monotonic()
        for line in text[:whole].splitlines():
            if re.match(r"resbm host: waits for \d+ more", line):
                self.waiting = self.waiting or now
            elif self.waiting and re.match(r"resumed after|step \d|resbm host: epoch", line):
                self.waits.append((self.waiting, now))
                self.waiting = None
            if line.startswith("resbm host: ") or line.startswith("resumed after"):
                self.say("    " + line[:200])

    def waited(self, since):
        """Seconds since then in which there were too few participants."""
        now = time.monotonic()
        return sum(max(0, b - max(a, since)) for a, b in self.waits + ([(self.waiting, now)] if self.waiting else []))

    def other(self, a, b):
        return not self.o.local_steps and abs(a - b) > 0.02 * b if self.o.replicas else a != b

    def turn(self):
        now = time.monotonic()
        for item in [x for x in self.later if x[0] <= now]:
            self.later.remove(item)
            item[1]()
        self.look()
        self.listen()
        if self.growth:
            self.growth.sample()
        for i, p in list(self.guests.items()):
            if p.poll() is not None and not any(x[2] == i for x in self.later):
                self.miss("guest %d has ended with status %d: %s" % (i, p.returncode, open(self.dir + "/guest%d.out" % i).read()[-300:]))
                self.start_guest(i)
        if self.host.poll() is not None:
            raise RuntimeError("the host has ended: " + open(self.dir + "/host.out").read()[-2000:])
        time.sleep(0.05)

    def wait_for(self, what, seconds, name):
        until = time.monotonic() + seconds
        while not what():
            if time.monotonic() > until:
                raise RuntimeError("waited %g s for %s" % (seconds, name))
            self.turn()

    def after(self, seconds, what, guest=0):
        self.later.append((time.monotonic() + seconds, what, guest))

    # --- faults: each happens now, and undoes itself later where it has to

    def any_guest(self):
        return self.rng.randint(1, GUESTS)

    def of_stage(self):
        with_stage = [i for i in range(1, GUESTS + 1) if self.pids(i, "resbm stage ")]
        return self.rng.choice(with_stage) if with_stage else self.any_guest()

    def restart(self, i, seconds, env=None):
        self.signal(i, "resbm (join|stage) ", signal.SIGKILL)
        self.after(seconds, lambda: self.start_guest(i, env), i)

    def kill_stage(self):
        self.signal(self.of_stage(), "resbm stage ", signal.SIGKILL)

    def stop_stage(self):
        self.signal(self.of_stage(), "resbm stage ", signal.SIGSTOP)

    def stuck_stage(self): # it lives, its beats come, and it computes nothing
        for pid in self.pids(self.of_stage(), "resbm stage "):
            self.stuck.append(subprocess.Popen([self.dir + "/stuck", str(pid), str(self.rng.randint(2, 40))], stderr=subprocess.DEVNULL))

    def kill_participant(self):
        self.restart(self.of_stage(), self.rng.uniform(0.2, 6))

    def stop_participant(self):
        i, t = self.of_stage(), self.rng.uniform(0.5, 8)
        self.signal(i, "resbm (join|stage) ", signal.SIGSTOP)
        self.after(t, lambda: self.signal(i, "resbm (join|stage) ", signal.SIGCONT))

    def kill_coordinator(self):
        self.signal(0, "resbm coordinate ", signal.SIGKILL)

    def stop_coordinator(self):
        self.signal(0, "resbm coordinate ", signal.SIGSTOP)

    def kill_server(self):
        self.signal(0, "^[^ ]*nats-server ", signal.SIGKILL)

    def stop_server(self):
        self.signal(0, "^[^ ]*nats-server ", signal.SIGSTOP)

    def link_down(self, seconds):
        i = self.of_stage()
        self.net.up(i, False)
        self.after(seconds, lambda: self.net.up(i, True))

    def link_down_1s(self):
        self.link_down(1)

    def link_down_10s(self):
        self.link_down(10)

    def link_down_60s(self):
        self.link_down(60)

    def one_direction(self):
        i = self.of_stage()
        self.net.mute(i, True)
        self.after(self.rng.choice([1, 3, 8]), lambda: self.net.mute(i, False))

    def rate_to_a_tenth(self):
        i = self.of_stage()
        self.net.set_rate(i, self.o.rate / 10)
        self.after(self.rng.uniform(2, 8), lambda: self.net.set_rate(i, self.o.rate))

    def late_joiner(self):
        if GUESTS + 1 in self.extra and self.extra[GUESTS + 1].poll() is None:
            self.extra[GUESTS + 1].terminate()
        name = "late%d" % self.count["late_joiner"]
        p = self.start_guest(GUESTS + 1, name=name)
        self.after(self.rng.uniform(3, 12), lambda: self.signal(GUESTS + 1, "--dir .*/%s " % name, signal.SIGTERM))

    def doubled_and_reordered(self):
        mischief = "seed=%d,twice=0.02,late=0.02,lost=0.005" % self.rng.randint(1, 1 << 30)
        self.restart(self.of_stage(), 0.3, {"RESBM_MISCHIEF": mischief})

    def disk_full(self):
        i = self.of_stage()
        path = self.dir + "/guest%d/fill" % i
        for size in (65536, 512): # to the last block
            try:
                with open(path, "ab", buffering=0) as f:
                    while f.write(b"x" * size) == size:
                        pass
            except OSError:
                pass
        self.after(self.rng.uniform(1, 5), lambda: os.path.exists(path) and os.unlink(path))

    def clock_skew(self):
        seconds = self.rng.choice([-36000, -3600, -61, 61, 3600, 864000])
        self.restart(self.of_stage(), 0.3, {"LD_PRELOAD": self.dir + "/skew.so", "RESBM_SKEW": str(seconds)})

    KINDS = ["kill_stage", "stop_stage", "kill_participant", "stop_participant", "kill_coordinator", "stop_coordinator", "kill_server",
             "stop_server", "link_down_1s", "link_down_10s", "link_down_60s", "one_direction", "rate_to_a_tenth", "late_joiner",
             "doubled_and_reordered", "disk_full", "clock_skew", "stuck_stage"]

    def round(self, kinds):
        together = self.rng.randint(1, self.o.together)
        draw = []
        for _ in range(together): # the kinds that have come least so far first, so that each gets its share
            least = min(self.count[k] for k in kinds)
            draw.append(self.rng.choice([k for k in kinds if self.count[k] <= least + 1]))
            self.count[draw[-1]] += 1
        until = time.monotonic() + self.rng.uniform(0, 1.5)
        while time.monotonic() < until:
            self.turn()
        start, far = time.monotonic(), self.far
        for k in draw:
            self.say("%s at step %d" % (k, self.far))
            getattr(self, k)()
            until = time.monotonic() + (self.rng.uniform(0, 1) if together > 1 else 0)
            while time.monotonic() < until:
                self.turn()
        last, far = time.monotonic(), max(far, self.far)
        # Past what was committed, and long enough that a fault which takes time to show has shown.
        try:
            self.wait_for(lambda: self.far > far, 180, "a step after %s" % "+".join(draw))
        except RuntimeError as e:
            self.miss(str(e))
            self.dump()
            raise
        took = time.monotonic() - last
        watch, longest, mark, seen = time.monotonic() + self.o.watch, took, time.monotonic(), self.far
        while time.monotonic() < watch or time.monotonic() - mark > 1.5: # a stand-still that begins later belongs to it too
            self.turn()
            if self.far > seen:
                longest, mark, seen = max(longest, time.monotonic() - mark), time.monotonic(), self.far
            if time.monotonic() - mark > 180:
                self.dump()
                raise RuntimeError("stands still after " + "+".join(draw))
        for k in draw:
            self.recovery[k if len(draw) == 1 else "combined"].append(longest)
        short = self.waited(start)
        self.recovery["all rounds"].append(longest)
        self.recovery["rounds with enough participants" if short < 1.5 else "rounds with too few of them for a while"].append(longest)
        log = open(self.run + "/host.log").read()
        self.say("went on; longest stand-still %.2f s, %.2f s with too few participants; so far %d losses within a step, %d epochs" % (
            longest, short, log.count("going on without it"), log.count("; going on\n")))

    # --- a participant that turns on its run

    def attack(self, count):
        """Malformed and unauthorised messages, wrong keys: none accepted, the run undisturbed, each named in a log; and a key that is
        revoked while the run goes on opens nothing any more."""
        m, name = GUESTS + 1, "enemy"
        p = self.start_guest(m, name=name)
        access = self.dir + "/enemy/access.json"
        self.wait_for(lambda: os.path.exists(access) and "GFLOP" in open(self.dir + "/enemy.out").read(), 30, "the enemy's enrolment")
        p.terminate()
        p.wait(20)
        own = json.load(open(access))["name"]
        listed = json.loads(self.inside(0, self.o.resbm, "status", "--json", self.run))
        victim, label = next((x["name"], x["label"]) for x in listed["participants"] if x["label"].startswith("guest") and x["state"] == "works")
        attacked = self.dir + "/%s.out" % label
        epoch, far = listed["epoch"], self.far
        server, host = os.path.getsize(self.run + "/host/server.log"), os.path.getsize(self.run + "/host.log")
        heard = os.path.getsize(attacked)
        store = self.store()
        hostile = subprocess.Popen(["ip", "netns", "exec", self.net.ns[m], os.path.join(os.path.dirname(self.o.resbm), "hostile"), access,
                                    self.run + "/invitation", victim, str(count), str(self.o.seed)], stdout=subprocess.PIPE, text=True)
        self.wait_for(lambda: hostile.poll() is not None, 120, "the enemy")
        said = hostile.stdout.read()
        print(said, end="", flush=True)
        if hostile.returncode:
            self.miss("the enemy got something accepted: " + said)
        self.wait_for(lambda: self.far > far + 3, 60, "steps after the attack")
        now = json.loads(self.inside(0, self.o.resbm, "status", "--json", self.run))
        if now["epoch"] != epoch:
            self.miss("the attack disturbed the run: epoch %d became %d" % (epoch, now["epoch"]))
        if "is gone" in store or self.store() != store:
            self.miss("the attack changed the run's store, which held\n%sand holds\n%s" % (store, self.store()))
        named = open(self.run + "/host/server.log").read()[server:].count("Violation")
        want, malformed = int(re.search(r"of (\d+)", said).group(1)), int(re.search(r"malformed (\d+)", said).group(1))
        bad = lambda path, since: sum(bool(re.search("refused|is not well-formed|only the host may", x)) for x in open(path).read()[since:].splitlines())
        until = time.monotonic() + 20
        while bad(self.run + "/host.log", host) + bad(attacked, heard) < malformed and time.monotonic() < until:
            self.turn()
        refused, there = bad(self.run + "/host.log", host), bad(attacked, heard)
        print("named: %d of %d by the server; of %d malformed ones %d by the coordinator, %d by the participant attacked" % (
            named, want, malformed, refused, there), flush=True)
        if named < want or refused + there < malformed:
            self.miss("the logs name %d violations of %d, and %d malformed messages of %d" % (named, want, refused + there, malformed))
        crowd = self.crowd(m)
        self.oversize(m, access)
        flood = subprocess.Popen(["ip", "netns", "exec", self.net.ns[m], os.path.join(os.path.dirname(self.o.resbm), "hostile"), "flood", access, "600"])
        self.wait_for(lambda: flood.poll() is not None, 60, "the flood")
        now = json.loads(self.inside(0, self.o.resbm, "status", "--json", self.run))
        said = next(x["reason"] for x in now["participants"] if x["name"] == own)
        if flood.returncode or "more than 500 messages that are not well-formed" not in said or now["epoch"] != epoch:
            self.miss("a flood of malformed messages: status %d, reason %r, epoch %d" % (flood.returncode, said, now["epoch"]))
        p = self.start_guest(m, name=name)
        self.wait_for(lambda: p.poll() is not None, 60, "the end of a participant that was revoked")
        if p.returncode != 1 or "cannot connect" not in open(self.dir + "/enemy.out").read():
            self.miss("a revoked key still opens: " + open(self.dir + "/enemy.out").read()[-300:])
        self.end_crowd(*crowd)
        self.impersonate()
        self.secrets()

    def crowd(self, m):
        """Somebody asks for a thousand names by the invitation, and goes on; somebody else wants to join meanwhile."""
        began, log, server = time.monotonic(), os.path.getsize(self.run + "/host.log"), os.path.getsize(self.run + "/host/server.log")
        p = subprocess.Popen(["ip", "netns", "exec", self.net.ns[m], os.path.join(os.path.dirname(self.o.resbm), "hostile"), "enrol", self.run + "/invitation"],
                             stdout=subprocess.PIPE, text=True)
        self.wait_for(lambda: "have not come yet; their places are free" in open(self.run + "/host.log").read()[log:], 30, "the crowd")
        return p, self.start_guest(m, name="friend"), began, log, server

    def end_crowd(self, p, friend, began, log, server):
        self.wait_for(lambda: "GFLOP" in open(self.dir + "/friend.out").read(), 60, "a participant that joins among many who only ask")
        self.signal(len(self.net.ns) - 1, "hostile enrol ", signal.SIGTERM)
        self.wait_for(lambda: p.poll() is not None, 60, "the end of the crowd")
        took = time.monotonic() - began
        said = p.stdout.read()
        asked, enrolled, refused = map(int, re.findall(r"\d+", said))
        told = open(self.run + "/host/server.log").read()[server:].count("Reloaded server configuration")
        lines = open(self.run + "/host.log").read()[log:].count('"flood"')
        now = json.loads(self.inside(0, self.o.resbm, "status", "--json", self.run))
        print("a crowd " + said.strip() + "; one joined among them; the server was told %d times in %.1f s; %d lines in the log; %d names without anybody" % (
            told, took, lines, now["unused"]), flush=True)
        if asked < 1000 or enrolled + refused != asked or not 200 <= enrolled < 200 * (1 + took / 10) or now["unused"] > 200:
            self.miss("of a crowd too many were enrolled, or not all answered: " + said)
        if not 0 < told <= took + 3 or lines > 500 * (2 + took // 60):
            self.miss("a crowd had the server told %d times in %.1f s, and wrote %d lines" % (told, took, lines))
        friend.terminate()
        friend.wait(20)

    def oversize(self, m, access):
        """What the client library would refuse to send: the server itself closes such connections, and names them."""
        server, far = os.path.getsize(self.run + "/host/server.log"), self.far
        p = subprocess.Popen(["ip", "netns", "exec", self.net.ns[m], os.path.join(os.path.dirname(self.o.resbm), "oversize"), access], stdout=subprocess.PIPE, text=True)
        self.wait_for(lambda: p.poll() is not None, 60, "messages that are too large")
        said = p.stdout.read()
        print(said, end="", flush=True)
        names = ["maximum payload exceeded: 1048577 vs 1048576", "Bad or Missing Size", "Header Size larger then TotalSize", "maximum control line exceeded"]
        until = time.monotonic() + 20
        while any(x not in (heard := open(self.run + "/host/server.log").read()[server:]) for x in names) and time.monotonic() < until:
            self.turn()
        if p.returncode or any(heard.count(x) != 1 for x in names):
            self.miss("messages that are too large: status %d, %s; the server's log names %r" % (p.returncode, said, [heard.count(x) for x in names]))
        self.wait_for(lambda: self.far > far + 1, 60, "steps behind messages that are too large")

    def impersonate(self):
        """A participant that has a stage, and with it the secret of the epoch, calls as the others when the next one begins, with one of them
        late so that its place is there to be taken; then it sends what is no frame. It alone is cut off, and joins again as somebody new."""
        listed = json.loads(self.inside(0, self.o.resbm, "status", "--json", self.run))
        works = sorted((x for x in listed["participants"] if x["state"] == "works"), key=lambda x: x["stage"])
        if len(works) != STAGES:
            return self.miss("only %d participants work before one of them calls as the others" % len(works))
        enemy, late, name = int(works[0]["label"][5:]), int(works[1]["label"][5:]), works[0]["name"]
        state = "%d" % listed["epoch"] + "".join(', "%s": %r' % (k, works[0][k]) for k in ("gflops", "memory", "up_bits", "down_bits", "latency_s"))
        log, far = os.path.getsize(self.run + "/host.log"), self.far
        self.guests.pop(enemy)
        self.signal(enemy, "resbm (join|stage) ", signal.SIGKILL)
        p = subprocess.Popen(["ip", "netns", "exec", self.net.ns[enemy], os.path.join(os.path.dirname(self.o.resbm), "impostor"), self.dir + "/guest%d/access.json" % enemy,
                              state, "30"] + [x["name"] for x in works], stdout=subprocess.PIPE, text=True)
        self.signal(late, "resbm (join|stage) ", signal.SIGSTOP)
        self.after(1.5, lambda: self.signal(late, "resbm (join|stage) ", signal.SIGCONT))
        self.wait_for(lambda: p.poll() is not None, 60, "the impostor")
        secret, said = re.fullmatch(r"secret (\w{16})\n(.*)", p.stdout.read(), re.S).groups()
        self.tokens = {secret}
        print(said, end="", flush=True)
        if p.returncode:
            self.miss("a participant was taken for another, or found no door: " + said)
        self.wait_for(lambda: self.far > far + 3, 60, "steps after the impostor")
        heard = open(self.run + "/host.log").read()[log:]
        named = len(re.findall("refused a connection of %s: it called as stage [1-3], which is p" % name, heard))
        if named < int(re.search(r"coordinator (\d+)", said).group(1)):
            self.miss("the log names %d calls as another: %s" % (named, said))
        at_stages = sum(open(self.dir + "/guest%d.out" % i).read().count("refused a connection of %s: it called as" % name) for i in range(1, GUESTS + 1))
        if at_stages < int(re.search(r"stages (\d+)", said).group(1)):
            self.miss("the participants' logs name %d calls as another: %s" % (at_stages, said))
        cut = re.findall("(\\S+) is cut off: (.*)", heard)
        if [x for x, _ in cut] != [name] or "stage 0 sent a bad frame" not in cut[0][1]:
            self.miss("cut off for a bad frame of %s: %r" % (name, cut))
        os.remove(self.dir + "/guest%d/access.json" % enemy)
        self.start_guest(enemy)
        self.wait_for(lambda: open(self.dir + "/guest%d.out" % enemy).read().count("GFLOP") > 1, 30, "its return")

    def store(self):
        return self.inside(0, os.path.join(os.path.dirname(self.o.resbm), "hostile"), "store", self.run + "/host/access.json")

    def inside(self, machine, *argv):
        return sh("ip", "netns", "exec", self.net.ns[machine], *argv)

    def secrets(self):
        """No secret stands in a log, a report, a checkpoint, or on a command line: seeds of keys, the invitation's too (host.out shows the
        invitation, in base64), the server's key, an epoch's secret."""
        invited = json.load(open(self.run + "/host/invited.json"))["seed"]
        key = open(self.run + "/host/server.key").read().splitlines()[1]
        line = open(self.run + "/invitation").read().strip()
        seeds = {invited, key, line[-200:]} | self.tokens | {json.load(open(d + "/access.json"))["seed"] for d in [self.run + "/host"] + [self.dir + "/guest%d" % i for i in range(1, GUESTS + 1)]}
        allowed = {"access.json", "invited.json", "invitation", "server.key"}
        for folder, _, files in os.walk(self.dir):
            for f in files:
                if f in allowed:
                    if os.stat(folder + "/" + f).st_mode & 0o077:
                        self.miss("%s/%s can be read by others" % (folder, f))
                    continue
                try:
                    data = open(folder + "/" + f, "rb").read()
                except OSError:
                    continue
                if any(s.encode() in data for s in seeds if not (f == "host.out" and s == line[-200:])):
                    self.miss("a secret stands in %s/%s" % (folder, f))
        for m in range(len(self.net.ns)):
            for pid in self.pids(m, "."):
                try:
                    line = open("/proc/%d/cmdline" % pid, "rb").read()
                except OSError:
                    continue
                if any(s.encode() in line for s in seeds):
                    self.miss("a secret stands on a command line")

    def dump(self):
        self.say(open(self.dir + "/host.out").read()[-3000:])
        for i in range(1, GUESTS + 1):
            self.say("guest %d: " % i + open(self.dir + "/guest%d.out" % i).read()[-600:])

    # --- the end

    def finish(self):
        while self.later:
            self.turn()
        far = self.far
        self.wait_for(lambda: self.far > far, 60, "a step at the end")
        self.host.send_signal(signal.SIGINT)
        try:
            self.host.wait(60)
        except subprocess.TimeoutExpired:
            self.miss("the host does not end")
        self.look()
        self.compare()

    def calm(self, name, steps, *settings):
        """Losses of a run without network or faults."""
        out = sh(self.o.resbm, "train", "-q", self.dir + "/run.yaml", "--out", self.dir + "/" + name, "pipeline.threads=1", "link.latency=0ms",
                 "optim.local_steps=none", "train.steps=%d" % steps, *settings, ok=True)
        try:
            with open(self.dir + "/" + name + "/metrics.jsonl") as f:
                return {m["step"]: m["loss"] for m in map(json.loads, f)}
        except OSError:
            self.miss("the reference run: " + out[-500:])
            return {}

    def compare(self):
        """Losses and weights against one process without network or faults."""
        ref, steps = self.dir + "/ref", max(self.losses)
        losses = self.calm("ref", steps, "pipeline.stages=1", "pipeline.replicas=1", "train.keep=1000000")
        if not losses:
            return
        may, most = dict.fromkeys(losses, 0), 0
        if self.o.replicas and not self.o.local_steps:
            others = [self.calm("ref%d" % n, steps, "pipeline.replicas=%d" % n) for n in (1, 2, 4)]
            for s in sorted(losses):
                most = max([most] + [abs(x[s] - losses[s]) / losses[s] for x in others if s in x])
                may[s] = 5 * most + 1e-6
            print("runs without faults, dealt in other ways, are up to %.1e apart" % most)
        with open(self.run + "/metrics.jsonl") as f:
            final = [m["step"] for m in map(json.loads, f)]
        if final != list(range(1, steps + 1)):
            self.miss("metrics.jsonl does not hold every step once")
        apart = {s: abs(v - losses[s]) / losses[s] if s in losses else 1 for s, v in self.losses.items()}
        wrong = [s for s in apart if apart[s] > may.get(s, 0) and not self.o.local_steps]
        if self.o.replicas:
            print("the losses are up to %.1e from those of a single process" % max(apart.values()))
        if wrong:
            self.miss("%d steps have other losses, first %d: %r, %r" % (len(wrong), min(wrong), self.losses[min(wrong)], losses.get(min(wrong))))
        other = 0
        for d, h in self.hashes.items() if not self.o.replicas else ():
            try:
                with open("%s/%s/manifest.json" % (ref, d)) as f:
                    other += sorted((x["name"], x["hash"]) for x in json.load(f)["files"]) != h
            except OSError:
                other += d != "step-%d" % steps and int(d[5:]) % 10 == 0 # others lie where places were given anew
        if other:
            self.miss("%d of %d snapshots have other weights" % (other, len(self.hashes)))
        log = open(self.run + "/host.log").read()
        if "with another result" in log:
            self.miss("a step that was done again had another result")
        self.snapshots, self.steps = len(self.hashes), steps
        if self.o.replicas:
            print("%d times a replica was lost and the run went on within the step, %d of them in an evaluation; %d places taken again; %d new epochs" % (
                log.count("going on without it"), len(re.findall("in the evaluation .*going on without it", log)), log.count("takes the place of the replica"), log.count("; going on\n")))

    def close(self):
        for p in self.stuck:
            p.kill()
            p.wait()
        for m in range(len(self.net.ns)):
            self.signal(m, ".", signal.SIGKILL)
        time.sleep(0.3)
        for d in self.mounted:
            sh("umount", "-l", d, ok=True)
        self.net.close()

    def report(self):
        rows = ["| fault | how often | recovered | median s | 95 % s | longest s |", "|---|---|---|---|---|---|"]
        for k in self.KINDS + ["combined", "all rounds", "rounds with enough participants", "rounds with too few of them for a while"]:
            v = sorted(self.recovery[k])
            n = self.count[k] if k in self.KINDS else len(v)
            if n:
                rows.append("| %s | %d | %s | %s | %s | %s |" % (k.replace("_", " "), n, len(v) if v else "in combinations", *(("%.1f" % x for x in (
                    statistics.median(v), v[int(0.95 * (len(v) - 1))], v[-1])) if v else ("", "", ""))))
        rows.append("")
        rows.append("%d faults, seed %d, %d steps, %d snapshots compared: %s" % (sum(self.count.values()), self.o.seed, getattr(self, "steps", self.far),
                    getattr(self, "snapshots", 0), "%d failures" % len(self.bad) if self.bad else "all held"))
        return "\n".join(rows)


def main():
    global GUESTS
    p = argparse.ArgumentParser()
    p.add_argument("--resbm", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--seed", type=int, default=int(time.time()))
    p.add_argument("--rounds", type=int, default=1 << 30)
    p.add_argument("--seconds", type=float, default=1e9)
    p.add_argument("--kinds", default=",".join(Run.KINDS))
    p.add_argument("--together", type=int, default=1)
    p.add_argument("--watch", type=float, default=2.0, help="seconds after a round in which a late stand-still still counts to it")
    p.add_argument("--rate", type=float, default=80, help="Mbit/s of every machine, each way")
    p.add_argument("--attack", type=int, default=0, help="messages of a hostile participant, first of all")
    p.add_argument("--soak", action="store_true", help="only what leaves host and server alone; they and the participants must not grow")
    p.add_argument("--spares", type=int, default=1, help="participants beyond the four that are needed")
    p.add_argument("--replicas", action="store_true", help="two stages, each held by two participants")
    p.add_argument("--local-steps", type=int, default=0, help="with --replicas: these train by themselves so many steps (a divisor of 10)")
    p.add_argument("--evaluate", action="store_true", help="at every tenth step a long evaluation, so that much of the time is spent in one")
    p.add_argument("--report")
    p.add_argument("--verbose", action="store_true")
    o = p.parse_args()
    o.resbm, GUESTS = os.path.abspath(o.resbm), STAGES + o.spares
    if o.soak and o.kinds == ",".join(Run.KINDS):
        o.kinds = ",".join(CHURN)
    if os.geteuid() or subprocess.run(["ip", "netns", "add", "rbprobe%d" % os.getpid()], stderr=subprocess.DEVNULL).returncode:
        print("skipped: network namespaces need root and iproute2")
        return 77
    sh("ip", "netns", "del", "rbprobe%d" % os.getpid())
    print("seed %d" % o.seed, flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    r = Run(o)
    try:
        r.prepare()
        kinds = [k for k in o.kinds.split(",") if k != "disk_full" or len(r.mounted) == GUESTS]
        if o.attack:
            r.attack(o.attack)
        until = time.monotonic() + o.seconds
        n = 0
        if o.soak:
            r.growth = growth.Growth(r, GUESTS + 1)
        while n < o.rounds and time.monotonic() < until:
            r.round(kinds)
            n += 1
        if o.soak:
            grown = r.growth.report()
            print(grown)
        r.finish()
    except (RuntimeError, KeyboardInterrupt) as e:
        r.miss(str(e) or "interrupted")
    finally:
        r.close()
    text = r.report()
    print(text)
    for b in r.bad:
        print("FAILED: " + b[:600])
    if o.report:
        with open(o.report, "a") as f:
            f.write(text + "\n\n")
    return 1 if r.bad else 0


if __name__ == "__main__":
    sys.exit(main())
