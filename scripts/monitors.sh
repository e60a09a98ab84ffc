#!/bin/sh
# Assemble every monitor NAME-ARCH.S of this repository into the folder given, as NAME-ARCH.bin. Each source says in a
# line "link at ADDRESS" where it is loaded.
set -eu
into=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for source in src/stage2/machines/monitors/*.S; do
    name=$(basename "$source" .S)
    address=$(sed -n 's/.*link at \(0x[0-9a-f]*\).*/\1/p' "$source" | head -n 1)
    case $name in
    *-riscv64) tools=riscv64-linux-gnu- as="-march=rv64gh" ld="--no-relax" ;;
    *-aarch64) tools=aarch64-linux-gnu- as="-march=armv8.4-a" ld="" ;;
    *-x86_64) tools=x86_64-linux-gnu- as="--64" ld="" ;;
    *)
        echo "monitors.sh: $source: its name ends in no architecture" >&2
        exit 1
        ;;
    esac
    # Some of these are empty, and then are to be no argument at all.
    # shellcheck disable=SC2086
    "${tools}as" $as -I src/stage2/machines/monitors -o "$work/$name.o" "$source"
    # shellcheck disable=SC2086
    "${tools}ld" $ld -Ttext="$address" -o "$work/$name.elf" "$work/$name.o"
    "${tools}objcopy" -O binary -j .text "$work/$name.elf" "$into/$name.bin"
    chmod 644 "$into/$name.bin"
done
