#!/bin/busybox sh
# The first process of the zero-copy test's guest (scripts/test-zerocopy.sh). What it finds goes to
# the second serial port; the last line is rc=0 if everything held.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mkdir -p /run/netns
exec 3>/dev/ttyS1

# The shell prefers its own, smaller, ip.
ip() { iproute2 "$@"; }
say() { echo "$*" >&3; }
finish() {
  say "rc=$1"
  sync
  poweroff -f
}
fail() {
  say "FAILED: $*"
  dmesg | tail -20 >&3
  cat /tmp/forward.log >&3 2>/dev/null
  finish 1
}

for module in failover net_failover virtio_net; do
  insmod /modules/$module.ko || say "insmod $module failed"
done
sleep 1
ip link set lo up
for side in "client eth2 1" "server eth3 2"; do
  set -- $side
  ip netns add "$1" 2>&3 || fail "netns $1"
  ip link set "$2" netns "$1" || fail "no $2"
  ip -n "$1" link set lo up
  ip -n "$1" link set "$2" up
  ip -n "$1" addr add "10.9.0.$3/24" dev "$2"
done
ip link set eth0 up
ip link set eth1 up
say "kernel $(uname -r)"

# A device that cannot do zero-copy refuses, and says what to do.
refused=$(ip netns exec client forward eth2 lo require-zerocopy 2>&1 </dev/null) &&
  fail "zero-copy on eth2 was not refused: $refused"
case $refused in
*eth2*zero-copy*) say "refused as it must be: $refused" ;;
*) fail "refused for another reason: $refused" ;;
esac

# The wire, zero-copy required on both ports. Its standard input stays open until the end.
mkfifo /tmp/stdin
forward eth0 eth1 require-zerocopy </tmp/stdin >/tmp/forward.log 2>&1 &
wire=$!
exec 4>/tmp/stdin
for _ in $(seq 100); do
  grep -q '^ready' /tmp/forward.log && break
  kill -0 $wire 2>/dev/null || fail "the wire did not start"
  sleep 0.1
done
grep -q '^ready' /tmp/forward.log || fail "the wire is not ready"
for port in eth0 eth1; do
  mode=$(grep "^$port: " /tmp/forward.log)
  say "$mode"
  case $mode in
  *"native zerocopy"*) ;;
  *) fail "$port is not zero-copy" ;;
  esac
done

ip netns exec client ping -c 5 -W 5 10.9.0.2 >/tmp/ping.log || fail "ping: $(tail -2 /tmp/ping.log)"
say "$(grep transmitted /tmp/ping.log)"

# A file over TCP, fetched by either side from the other. A pipe that never ends is the reader's
# input: at the end of its input nc would hang up.
dd if=/dev/urandom of=/tmp/file bs=64k count=32 2>/dev/null
wanted=$(md5sum </tmp/file)
mkfifo /tmp/silence
exec 5<>/tmp/silence
for ends in "client server 10.9.0.2" "server client 10.9.0.1"; do
  set -- $ends
  ip netns exec "$2" nc -l -p 5432 </tmp/file >/dev/null 2>&3 &
  sleep 1
  timeout 40 iproute2 netns exec "$1" nc "$3" 5432 <&5 >/tmp/got 2>&3 || fail "$1 could not fetch from $2"
  [ "$(md5sum </tmp/got)" = "$wanted" ] || fail "$1 got $(wc -c </tmp/got) bytes that $2 did not send"
  say "$1 fetched 2 MiB from $2 over TCP, unchanged"
done

exec 4>&-
wait $wire || fail "the wire ended with an error"
grep -v '^ready' /tmp/forward.log >&3
# Packets came in and went out through the sockets of both ports.
for port in eth0 eth1; do
  counts=$(grep "^$port queue 0: QueueCounters" /tmp/forward.log)
  received=$(echo "$counts" | sed 's/.*received: \([0-9]*\).*/\1/')
  transmitted=$(echo "$counts" | sed 's/.*transmitted: \([0-9]*\).*/\1/')
  [ "$received" -gt 500 ] && [ "$transmitted" -gt 500 ] || fail "$port moved too few packets: $counts"
done
finish 0
