#!/bin/sh
# Assemble every bundled guest NAME-ARCH.S of this repository into the folder given, as NAME-ARCH.bin.
set -eu
into=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for source in src/stage2/vm/guests/*.S; do
    name=$(basename "$source" .S)
    case $name in
    *-riscv64) tools=riscv64-linux-gnu- as="-march=rv64g" ld="--no-relax" ;;
    *-aarch64) tools=aarch64-linux-gnu- as="" ld="" ;;
    *-x86_64) tools=x86_64-linux-gnu- as="--64" ld="" ;;
    *)
        echo "guests.sh: $source: its name ends in no architecture" >&2
        exit 1
        ;;
    esac
    # Some of these are empty, and then are to be no argument at all.
    # shellcheck disable=SC2086
    "${tools}as" $as -o "$work/$name.o" "$source"
    # shellcheck disable=SC2086
    "${tools}ld" $ld -Ttext=0x80000000 -o "$work/$name.elf" "$work/$name.o"
    "${tools}objcopy" -O binary -j .text "$work/$name.elf" "$into/$name.bin"
    chmod 644 "$into/$name.bin"
done
