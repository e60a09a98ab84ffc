#!/bin/sh
# Assemble every bundled guest NAME-riscv64.S of this repository into the folder given, as NAME-riscv64.bin.
set -eu
into=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for source in src/stage2/vm/guests/*-riscv64.S; do
    name=$(basename "$source" .S)
    riscv64-linux-gnu-as -march=rv64g -o "$work/$name.o" "$source"
    riscv64-linux-gnu-ld --no-relax -Ttext=0x80000000 -o "$work/$name.elf" "$work/$name.o"
    riscv64-linux-gnu-objcopy -O binary -j .text "$work/$name.elf" "$into/$name.bin"
    chmod 644 "$into/$name.bin"
done
