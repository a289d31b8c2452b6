#!/bin/sh
# Builds src/portcullis.bpf.o from src/portcullis.bpf.c, and writes down what it was built from.
#
#   build-object.sh            build and replace the committed object
#   build-object.sh --check    fail if the committed object is not what the source gives
#
# Needs clang, llvm (llvm-strip), libbpf-dev and linux-libc-dev. The same clang gives the same
# bytes. A check with another clang compares the source's checksum, and that it still compiles.
set -eu
cd "$(dirname "$0")/src"

source=portcullis.bpf.c
object=portcullis.bpf.o
record=portcullis.bpf.o.txt
clang=${CLANG:-clang}
strip=${LLVM_STRIP:-llvm-strip}

built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT

version=$("$clang" --version | sed -n 's/.*clang version \([0-9.]*\).*/\1/p')
multiarch=$(cc -print-multiarch 2>/dev/null || true)
"$clang" -O2 -g -target bpf -mcpu=v3 -Wall -Wextra -Werror \
    ${multiarch:+-idirafter "/usr/include/$multiarch"} \
    -ffile-prefix-map="$PWD=." -c "$source" -o "$built/$object"
# DWARF names paths and is of no use to the kernel; BTF stays.
"$strip" --strip-debug "$built/$object"
{
    echo "clang $version"
    echo "source $(sha256sum "$source" | cut -d' ' -f1)"
    echo "object $(sha256sum "$built/$object" | cut -d' ' -f1)"
} >"$built/$record"

if [ "${1:-}" != --check ]; then
    mv "$built/$object" "$built/$record" .
    chmod 644 "$object" "$record"
    cat "$record"
    exit 0
fi

value() { sed -n "s/^$2 //p" "$1"; }
if [ "$(value "$record" source)" != "$(value "$built/$record" source)" ]; then
    echo "$source has changed since $object was built: run crates/bpf/build-object.sh" >&2
    exit 1
fi
if [ "$(value "$record" object)" != "$(sha256sum "$object" | cut -d' ' -f1)" ]; then
    echo "$object is not the one that $record describes: run crates/bpf/build-object.sh" >&2
    exit 1
fi
if [ "$(value "$record" clang)" = "$version" ]; then
    if ! cmp "$object" "$built/$object"; then
        echo "$source built with clang $version gives another $object: run crates/bpf/build-object.sh" >&2
        exit 1
    fi
    echo "$object: the same bytes from clang $version"
else
    echo "$object: made by clang $(value "$record" clang) from this source; clang $version builds it too"
fi
