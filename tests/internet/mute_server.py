#!/usr/bin/env python3
"""A server that keeps a participant's connection from coming about: it never speaks TLS, or behind the handshake it resets the connection, closes it without a
word, or says nothing. Whoever connects is to try again, and to end with an error, not to wait or to compute for ever.

    mute_server.py --resbm PROGRAM --host DIR

DIR: of a run that `resbm host` has begun (its key, its invitation). Ends with 1 where `resbm join` does not come again."""
import argparse, json, os, socket, ssl, struct, subprocess, sys, threading, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import internet

INFO = {"server_id": "S", "version": "2.9.10", "proto": 1, "headers": True, "max_payload": 1048576, "tls_required": True, "nonce": "cmVzYm0="}
WAYS = {"resets": 4, "closes": 4, "says nothing": 2, "speaks no TLS": 2} # how often one comes within the time
SECONDS = 150 # none of which pass once they have come


def serve(way, listener, context, seen):
    while True:
        s, _ = listener.accept()
        try:
            s.sendall(b"INFO " + json.dumps(INFO).encode() + b"\r\n")
            if way == "speaks no TLS":
                seen[way] += 1
                seen.setdefault("kept", []).append(s)
                continue
            t = context.wrap_socket(s, server_side=True)
            said = b""
            while b"PING\r\n" not in said:
                more = t.recv(4096)
                if not more:
                    raise OSError("gone")
                said += more
            seen[way] += 1
            if way == "resets":
                t.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if way == "says nothing":
                seen.setdefault("kept", []).append(t)
                continue
            t.close() # without a close_notify
        except OSError:
            s.close()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--resbm", required=True)
    p.add_argument("--host", required=True)
    o = p.parse_args()
    invitation = open(o.host + "/invitation").read()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(o.host + "/host/server.pem", o.host + "/host/server.key")
    seen, joins = {w: 0 for w in WAYS}, {}
    for way in WAYS:
        listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=serve, args=(way, listener, context, seen), daemon=True).start()
        own = internet.elsewhere(invitation, "tls://127.0.0.1:%d" % listener.getsockname()[1])
        log = open("%s.log" % way.replace(" ", "-"), "w")
        joins[way] = subprocess.Popen([o.resbm, "join", own, "--dir", "guest-" + way.replace(" ", "-")], stdout=log, stderr=subprocess.STDOUT)
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and any(seen[w] < n for w, n in WAYS.items()):
        time.sleep(0.1)
    bad = 0
    for way, n in WAYS.items():
        print("where the server %s, %d attempts to connect were seen" % (way, seen[way]))
        if seen[way] < n:
            print("FAILED: fewer than %d in %d s; %s" % (n, SECONDS, open("%s.log" % way.replace(" ", "-")).read()))
            bad = 1
        joins[way].kill()
        joins[way].wait()
    return bad


if __name__ == "__main__":
    sys.exit(main())
