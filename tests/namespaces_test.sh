#!/bin/sh
# ctest: timeout=120 serial
# Two stages in two network namespaces, started through pipeline.launcher, speaking TCP between named addresses: the
# same bits as on one machine, and the bytes that summary.json reports are those the interfaces counted, within 66 per
# packet. Control goes over interfaces of its own.
set -eu
resbm=$RB_BINARY_DIR/resbm
id=$$
a=rbA$id b=rbB$id
[ "$(id -u)" = 0 ] && command -v ip >/dev/null && ip netns add "$a" 2>/dev/null || {
    echo "skipped: network namespaces need root and iproute2"
    exit 77
}
clean() {
    ip netns del "$a" 2>/dev/null || true
    ip netns del "$b" 2>/dev/null || true
    ip link del "rbca$id" 2>/dev/null || true
    ip link del "rbcb$id" 2>/dev/null || true
}
trap clean EXIT
ip netns add "$b"
for ns in "$a" "$b"; do
    ip netns exec "$ns" sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
    ip -n "$ns" link set lo up
done
ip link add data netns "$a" type veth peer name data netns "$b"
ip -n "$a" addr add 10.177.1.1/24 dev data && ip -n "$a" link set data up
ip -n "$b" addr add 10.177.1.2/24 dev data && ip -n "$b" link set data up
ip link add "rbca$id" type veth peer name control netns "$a"
ip link add "rbcb$id" type veth peer name control netns "$b"
ip addr add 10.177.2.254/24 dev "rbca$id" && ip link set "rbca$id" up
ip addr add 10.177.3.254/24 dev "rbcb$id" && ip link set "rbcb$id" up
ip -n "$a" addr add 10.177.2.1/24 dev control && ip -n "$a" link set control up
ip -n "$b" addr add 10.177.3.1/24 dev control && ip -n "$b" link set control up
ip -n "$b" route add 10.177.2.254 via 10.177.3.254
cat >launch <<L
#!/bin/sh
case \$1 in 0) ns=$a ;; *) ns=$b ;; esac
shift
exec ip netns exec \$ns "\$@"
L
chmod +x launch

rm -rf corpus one two
seq 1 40000 | awk '{print $1 * $1 " parts of " $1}' >text
"$resbm" data --out corpus text >/dev/null
cat >run.yaml <<'Y'
model:    {d: 128, layers: 2, heads: 2, ffn: 128, vocab: 256, context: 64, segments: 2}
boundary: {kind: none, codec_fwd: bf16, codec_bwd: bf16}
data:     {train: "corpus/train-*.bin", tokenizer: bytes}
optim:    {warmup: 2, schedule: constant}
train:    {steps: 5, batch: 8, microbatches: 4, eval_every: 0, checkpoint_every: 0}
pipeline: {stages: 2}
Y
"$resbm" train run.yaml --quiet --out one >/dev/null 2>log || { cat log; exit 1; }
"$resbm" train run.yaml --quiet --out two pipeline.transport=tcp 'pipeline.addresses=["10.177.1.1:7001", "10.177.1.2:7002"]' \
    pipeline.control=10.177.2.254:7003 "pipeline.launcher=$PWD/launch {stage}" pipeline.threads=1 >/dev/null 2>log ||
    { cat log; exit 1; }
for d in one two; do sed 's/"step_s.*//' $d/metrics.jsonl >$d.txt; done
cmp one.txt two.txt

# What TCP of a namespace has counted since it is there, over all its interfaces.
counted() { # NAMESPACE FILE GROUP NAME
    ip netns exec "$1" awk -v group="$3" -v name="$4" '$1 == group && !named { for (i = 2; i <= NF; i++) at[$i] = i; named = 1; next }
        $1 == group { print $at[name] }' "/proc/net/$2"
}
count() { ip netns exec "$1" cat "/sys/class/net/data/statistics/$2"; }
bytes=$(($(count "$a" tx_bytes) + $(count "$b" tx_bytes)))
packets=$(($(count "$a" tx_packets) + $(count "$b" tx_packets)))
# Only the rows of "links": "memory" names activations and gradients too.
reported=$(grep '"from":' two/summary.json | tr ',{}' '\n\n\n' | sed -n 's/.*"\(activations\|gradients\|tokens\|control\)": *\([0-9]*\).*/\2/p' |
    awk '{s += $1} END {print s}')
echo "interfaces: $bytes bytes in $packets packets; reported: $reported; headers: $((bytes - reported))"
[ "$reported" -gt 600000 ]
[ $((bytes - reported)) -ge 0 ]
# A machine that stands still for a moment has segments sent again, whole; what came twice or out of order is named in acknowledgements
# (RFC 2018, RFC 2883: with time stamps up to three blocks, 28 bytes).
again=0 header=66
for ns in "$a" "$b"; do
    sent_again=$(counted "$ns" snmp Tcp: RetransSegs) unordered=$(counted "$ns" netstat TcpExt: TCPOFOQueue)
    again=$((again + sent_again))
    [ "$sent_again$unordered" = 00 ] || header=94
done
[ $((bytes - reported)) -le $((header * packets + 1448 * again + 64)) ]
