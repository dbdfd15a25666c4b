"""Do the processes of a long run grow? Resident memory, open descriptors and threads of host, server and participants, and the bytes
of the server's store (its queues), sampled all along; of those that lived through at least half the run the first quarter (behind two
minutes of warm-up) is compared with the last."""
import os, re, statistics, time

ROLES = {"host": r"resbm host", "server": r"nats-server", "participant": r"resbm join"}
WARM_UP = 120


def numbers(pid):
    """(resident kB, descriptors, threads) of a process."""
    with open("/proc/%d/status" % pid) as f:
        text = f.read()
    return (int(re.search(r"VmRSS:\s*(\d+)", text).group(1)), len(os.listdir("/proc/%d/fd" % pid)),
            int(re.search(r"Threads:\s*(\d+)", text).group(1)))


def stored(folder):
    """Bytes of all files below a folder."""
    total = 0
    for at, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(at + "/" + name).st_blocks * 512
            except OSError:
                pass
    return total


class Growth:
    def __init__(self, run, machines):
        self.run, self.machines, self.begin = run, machines, time.monotonic()
        self.seen, self.store, self.last = {}, [], 0

    def sample(self):
        now = time.monotonic() - self.begin
        if now - self.last < 5:
            return
        self.last = now
        for machine in range(self.machines):
            for role, pattern in ROLES.items():
                for pid in self.run.pids(machine, pattern):
                    try:
                        self.seen.setdefault((role, machine, pid), []).append((now, *numbers(pid)))
                    except (OSError, AttributeError):
                        pass
        self.store.append((now, stored(self.run.run + "/host")))

    def quarters(self, rows, column):
        rows = [r for r in rows if r[0] >= WARM_UP]
        n = max(1, len(rows) // 4)
        return statistics.median(r[column] for r in rows[:n]), statistics.median(r[column] for r in rows[-n:])

    def report(self):
        """A table of those that lived long; what grew is a failure of the run."""
        whole = time.monotonic() - self.begin
        lines = ["| process | lived s | MB, first quarter | last | descriptors | last | threads | last |", "|---|---|---|---|---|---|---|---|"]
        for (role, machine, _), rows in sorted(self.seen.items()):
            if rows[-1][0] - max(rows[0][0], WARM_UP) < whole / 2:
                continue
            cells, grown = [], []
            for column, scale, slack in ((1, 1024, 8), (2, 1, 4), (3, 1, 4)):
                first, last = (x / scale for x in self.quarters(rows, column))
                cells += ["%.1f" % first if scale > 1 else "%d" % first, "%.1f" % last if scale > 1 else "%d" % last]
                grown.append(last > 1.2 * first + slack)
            lines.append("| %s %d | %d | " % (role, machine, rows[-1][0] - rows[0][0]) + " | ".join(cells) + " |")
            if any(grown):
                self.run.miss("%s of machine %d has grown: %s" % (role, machine, lines[-1]))
        first, last = (x / 1e6 for x in self.quarters(self.store, 1)) if any(t >= WARM_UP for t, _ in self.store) else (0, 0)
        lines.append("\nThe host's folder, the server's store in it: %.1f MB in the first quarter, %.1f MB in the last." % (first, last))
        if last > 1.5 * first + 16:
            self.run.miss("the server's store has grown from %.1f to %.1f MB" % (first, last))
        if len(lines) == 3:
            self.run.miss("no process lived through half the run: nothing is known of growth")
        return "\n".join(lines)
