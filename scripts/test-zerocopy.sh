#!/usr/bin/env bash
# Real zero-copy, in a virtual machine: boots a recent Debian kernel in QEMU (emulated, no KVM, no
# root needed) with four virtio interfaces, and runs `portcullis run` with zero-copy required on both
# ports, between a client and a server with real TCP connections and a policy (scripts/zerocopy).
#
#   client eth2 - hub 1 - eth0 [portcullis, XDP_ZEROCOPY] eth1 - hub 2 - eth3 server
#
# eth0 and eth1 can do zero-copy; eth2 and eth3 cannot (no iommu_platform), so there the same demand
# must be refused. The packages (about 70 MB) are downloaded once into target/zerocopy and unpacked there;
# nothing is installed. Where they cannot be had the test says so and ends with status 0; set
# PORTCULLIS_REQUIRE_ZEROCOPY=1 to make that a failure. Kernel log and console: target/zerocopy/*.log.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$root/target/zerocopy
mkdir -p "$work"

skip() {
  echo "=================================================================="
  echo "skipped: the zero-copy test did not run: $*"
  echo "=================================================================="
  [ "${PORTCULLIS_REQUIRE_ZEROCOPY:-0}" = 1 ] && exit 1
  exit 0
}

# QEMU of bookworm (its libraries fit bookworm and later), kernel of trixie-backports: 6.18 is the
# first that can do zero-copy on both sides of virtio.
packages=(qemu-system-x86 qemu-system-common qemu-system-data seabios busybox-static
  libaio1 libcapstone4 libfdt1 libfuse3-3 libpixman-1-0 libnuma1 libpmem1 libndctl6 libdaxctl1
  libibverbs1 librdmacm1 libslirp0 liburing2 libvdeplug2 libexecs0
  libpng16-16 libjpeg62-turbo libglib2.0-0 libffi8 libpcre2-8-0 libnl-3-200 libnl-route-3-200 libkmod2)

# apt with a state of its own and the machine's mirror, keys and proxies.
private_apt() {
  local tool=$1
  shift
  APT_CONFIG=$work/apt/apt.conf "$tool" "$@"
}

fetch() {
  command -v apt-get >/dev/null && command -v dpkg >/dev/null || skip "no apt on this machine"
  [ "$(uname -m)" = x86_64 ] || skip "only for x86-64"
  local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  [ -e "$keyring" ] || skip "no Debian archive keyring (package debian-archive-keyring)"
  local mirror
  mirror=$({ cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null || true; } |
    grep -v '^ *#' | grep -oE '[a-z+]+://[^ ]*/debian/?( |$)' | head -1 | tr -d ' ')
  [ -n "$mirror" ] || skip "apt's sources name no Debian mirror"
  local apt=$work/apt
  mkdir -p "$apt"/{lists/partial,cache/archives/partial,debs,parts}
  touch "$apt/status"
  cat >"$apt/sources.list" <<LIST
deb [signed-by=$keyring] $mirror bookworm main
deb [signed-by=$keyring] $mirror trixie-backports main
LIST
  cat >"$apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "$apt/parts";
Dir::State "$apt";
Dir::State::status "$apt/status";
Dir::State::lists "$apt/lists";
Dir::Cache "$apt/cache";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "";
Acquire::Languages "none";
CONF
  echo "test-zerocopy: fetching QEMU and a kernel from $mirror"
  private_apt apt-get update -qq >"$work/apt.log" 2>&1 || skip "apt-get update: $(tail -1 "$work/apt.log")"
  # The newest cloud kernel; since 7 the modules are a package of their own.
  local kernel
  kernel=$(private_apt apt-cache depends linux-image-cloud-amd64/trixie-backports 2>>"$work/apt.log" |
    sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*-cloud-amd64\).*/\1/p' | sort -V | tail -1)
  [ -n "$kernel" ] || skip "no cloud kernel in trixie-backports of $mirror"
  local version=${kernel#linux-image-}
  local kernels=("$kernel")
  for kind in binary modules; do
    if private_apt apt-cache show "linux-$kind-$version" >/dev/null 2>&1; then
      kernels+=("linux-$kind-$version")
    fi
  done
  (cd "$apt/debs" && private_apt apt-get download -qq "${packages[@]}" "${kernels[@]}") \
    >>"$work/apt.log" 2>&1 || skip "apt-get download: $(tail -1 "$work/apt.log")"
  rm -rf "$work/root"
  for package in "$apt"/debs/*.deb; do
    dpkg -x "$package" "$work/root" || skip "unpacking $package"
  done
  touch "$work/fetched"
}

# Copies a program with all libraries that it names to the same places in the initramfs.
add_program() {
  local program=$1 to=$2
  install -D "$program" "$init$to"
  ldd "$program" 2>/dev/null | grep -oE '/[^ ]+' | sort -u | while read -r library; do
    [ -e "$init$library" ] || install -D "$library" "$init$library"
  done
}

build_initramfs() {
  init=$work/initramfs
  rm -rf "$init"
  mkdir -p "$init"/{bin,dev,proc,sys,run,tmp,modules,var,etc}
  ln -s /run "$init/var/run"
  install "$work/root/bin/busybox" "$init/bin/busybox"
  add_program "$(command -v ip)" /bin/iproute2
  add_program "$root/target/release/portcullis" /bin/portcullis
  for module in failover net_failover virtio_net; do
    local file
    file=$(find "$work/root" -name "$module.ko*" -print -quit)
    case $file in
    *.xz) xz -dc "$file" ;;
    *.zst) zstd -dc "$file" ;;
    *) cat "$file" ;;
    esac >"$init/modules/$module.ko"
  done
  install -m 755 "$root/scripts/zerocopy/init" "$init/init"
  cp "$root"/scripts/zerocopy/*.yaml "$init/etc/"
  (cd "$init" && find . | "$work/root/bin/busybox" cpio -o -H newc 2>/dev/null) | gzip -1 >"$work/initramfs.gz"
}

boot() {
  local kernel nic
  kernel=$(find "$work/root" -name 'vmlinuz*' -print -quit)
  nic=virtio-net-pci,disable-legacy=on,romfile=
  rm -f "$work"/{console,result}.log
  LD_LIBRARY_PATH=$work/root/usr/lib/x86_64-linux-gnu:$work/root/lib/x86_64-linux-gnu \
    timeout 150 "$work/root/usr/bin/qemu-system-x86_64" \
    -L "$work/root/usr/share/qemu" -L "$work/root/usr/share/seabios" \
    -M q35 -cpu max -smp 2 -m 384 -accel tcg,thread=single -nodefaults -display none -no-reboot \
    -kernel "$kernel" -initrd "$work/initramfs.gz" \
    -append "console=ttyS0 quiet panic=-1 mitigations=off" \
    -netdev hubport,id=n0,hubid=1 -device $nic,netdev=n0,mac=52:54:00:00:00:10,iommu_platform=on \
    -netdev hubport,id=n1,hubid=2 -device $nic,netdev=n1,mac=52:54:00:00:00:11,iommu_platform=on \
    -netdev hubport,id=n2,hubid=1 -device $nic,netdev=n2,mac=52:54:00:00:00:12 \
    -netdev hubport,id=n3,hubid=2 -device $nic,netdev=n3,mac=52:54:00:00:00:13 \
    -serial "file:$work/console.log" -serial "file:$work/result.log" \
    >"$work/qemu.log" 2>&1 || echo "test-zerocopy: QEMU ended with status $?" >>"$work/qemu.log"
}

[ -e "$work/fetched" ] || fetch
cargo build --release --locked -q -p portcullis-cli
build_initramfs
started=$(date +%s)
boot
echo "test-zerocopy: $(($(date +%s) - started)) s in the guest"
tr -d '\r' <"$work/result.log" 2>/dev/null || true
if grep -q '^rc=0' "$work/result.log" 2>/dev/null; then
  echo "test-zerocopy: passed"
  exit 0
fi
echo "test-zerocopy: FAILED; the end of the console:" >&2
cat "$work/console.log" "$work/qemu.log" 2>/dev/null | tail -n 30 >&2 || true
exit 1
