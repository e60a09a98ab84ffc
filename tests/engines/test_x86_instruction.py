"""Loads and stores of x86, decoded and made by hand: Unicorn's CPU does the same with the same instruction."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from stage2.engines.qemu.x86_instruction import STATUS_FLAGS, Move, Verb, decode

unicorn = pytest.importorskip("unicorn")
names = unicorn.x86_const
_CODE, _DATA, _SIZE = 0x1F_0000, 0x0, 0x30_0000
_BYTES = Random(1).randbytes(_CODE)
_FS_BASE, _GS_BASE = 0x2_0000, 0x3_0000
_64 = ("RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", *(f"R{n}" for n in range(8, 16)))
_32 = ("EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI")
_OPCODES = (
    "88", "89", "8a", "8b", "c6", "c7", "0fb6", "0fb7", "0fbe", "0fbf", "63", "84", "85", "38", "39", "3a", "3b", "f6",
    "f7", "80", "81", "83", "a0", "a1", "a2", "a3",
)  # fmt: skip
_AUXILIARY = 1 << 4
"""AF, which TEST leaves undefined."""


def instruction(random: Random, *, long: bool) -> bytes:
    """One with a memory operand, of any form that is known, and some that are not."""
    prefixes = bytes(
        random.choice(choice) for choice in ([0x66], [0x64, 0x65] if long else [0x3E]) if random.random() < 0.3
    )
    if long and random.random() < 0.2:
        prefixes += b"\x67"
    rex = bytes([0x40 | random.randrange(16)]) if long and random.random() < 0.5 else b""
    opcode = bytes.fromhex(random.choice(_OPCODES))
    if rex and opcode[0] in (0xC6, 0xC7):
        # REX.R means nothing where the field is no register (APM Vol. 3, 1.2.7); this CPU refuses it.
        rex = bytes([rex[0] & ~4])
    if opcode[0] in range(0xA0, 0xA4):
        size = (4 if 0x67 in prefixes else 8) if long else 4
        return prefixes + rex + opcode + random.randrange(0x1000, 0x8_0000).to_bytes(size, "little")
    field = random.randrange(8)
    if opcode[0] in (0xC6, 0xC7, 0xF6, 0xF7):
        field = 0
    elif opcode[0] in (0x80, 0x81, 0x83):
        field = 7
    mode, low = random.randrange(3), random.randrange(8)
    code = bytes([mode << 6 | field << 3 | low])
    root = low
    if low == 4:
        sib = random.randrange(256)
        root = sib & 7
        code += bytes([sib])
    if mode == 1:
        code += bytes([random.randrange(256)])
    elif mode == 2 or (mode == 0 and root == 5):
        code += random.randrange(0x1000, 0x8_0000).to_bytes(4, "little")
    # Enough of anything for an immediate of every size.
    return prefixes + rex + opcode + code + random.randbytes(8)


def emulator(code: bytes, registers: list[int], flags: int, *, long: bool) -> Any:
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64 if long else unicorn.UC_MODE_32)
    uc.mem_map(_DATA, _SIZE)
    uc.mem_write(_DATA, _BYTES)
    uc.mem_write(_CODE, code)
    if long:
        uc.reg_write(names.UC_X86_REG_FS_BASE, _FS_BASE)
        uc.reg_write(names.UC_X86_REG_GS_BASE, _GS_BASE)
    for name, value in zip(_64 if long else _32, registers, strict=False):
        uc.reg_write(getattr(names, f"UC_X86_REG_{name}"), value)
    uc.reg_write(names.UC_X86_REG_EFLAGS, flags)
    return uc


def bases_of(long: bool) -> Callable[[str], int]:
    bases = {"fs": _FS_BASE, "gs": _GS_BASE} if long else {}
    return lambda name: bases.get(name, 0)


def made(move: Move, registers: list[int], flags: int, memory: bytearray) -> tuple[list[int], int]:
    """What `X86Qemu` does with a decoded access."""
    registers = list(registers)
    span = slice(move.address, move.address + move.width)
    if move.write:
        memory[span] = move.stored(registers.__getitem__).to_bytes(move.width, "little")
        return registers, flags
    value = int.from_bytes(memory[span], "little")
    if move.verb is not Verb.MOVE:
        return registers, flags & ~STATUS_FLAGS | move.flags(value, move.other(registers.__getitem__))
    assert move.register is not None
    registers[move.register] = move.loaded(value, registers[move.register])
    return registers, flags


@pytest.mark.parametrize("long", [True, False], ids=["64-bit", "32-bit"])
def test_what_is_decoded_is_what_a_cpu_does(long: bool) -> None:
    random, seen = Random(7 if long else 8), set()
    count = 16 if long else 8
    for _ in range(600):
        code = instruction(random, long=long)
        registers = [random.randrange(0x1000, 0x1_0000) for _ in range(count)]
        flags = 2 | random.getrandbits(12) & STATUS_FLAGS
        move = decode(code, long=long, rip=_CODE, register=registers.__getitem__, base=bases_of(long))
        if move is None:
            # The form that no operand-size prefix and REX leave is all that is not known.
            continue
        uc = emulator(code, registers, flags, long=long)
        memory = bytearray(uc.mem_read(_DATA, _SIZE))
        uc.emu_start(_CODE, _SIZE, count=1)
        after, status = made(move, registers, flags, memory)
        said = f"{code.hex()}: {move}"
        assert uc.reg_read(names.UC_X86_REG_RIP if long else names.UC_X86_REG_EIP) == _CODE + move.length, said
        found = [uc.reg_read(getattr(names, f"UC_X86_REG_{name}")) for name in (_64 if long else _32)]
        mask = (1 << 64 if long else 1 << 32) - 1
        assert found == [value & mask for value in after], said
        known = STATUS_FLAGS & ~(_AUXILIARY if move.verb is Verb.TEST else 0)
        assert uc.reg_read(names.UC_X86_REG_EFLAGS) & known == status & known, said
        assert bytes(uc.mem_read(_DATA, _SIZE)) == bytes(memory), said
        seen.add((move.verb, move.write, move.width, move.into, move.signed, move.high))
    assert {verb for verb, *_ in seen} == set(Verb)
    assert len(seen) > (25 if long else 15)


@pytest.mark.parametrize(
    "code",
    ["a4", "f3a4", "ff30", "0fc108", "f600", "c600", "c608ff", "8bc1", "90", "", "66", "f0830801", "0f0107"],
)
def test_anything_else_is_not_taken_for_a_load_or_a_store(code: str) -> None:
    """String moves, PUSH, XADD, instructions that are cut short, registers, and prefixes alone."""
    assert decode(bytes.fromhex(code), long=True, rip=0, register=lambda _: 0, base=lambda _: 0) is None
