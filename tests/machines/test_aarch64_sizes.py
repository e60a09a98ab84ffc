"""What QEMU's AArch64 CPU makes of sizes, and what its models say they have: our readings of the manual, on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from test_aarch64_machine import DATA, GPA, ec, probe, stage_2, status

from opening import machine_fixture, or_skip
from stage2.address import Hpa
from stage2.errors import MachineError
from stage2.flags import RWX, Access, MappingFlags
from stage2.formats.arm.instruction import instruction_syndrome
from stage2.formats.arm.layout import OUTPUT_BITS, OUTPUT_BITS_AT
from stage2.formats.arm.processors import identified
from stage2.formats.arm.syndromes import DABT_LOWER, IABT_LOWER
from stage2.machines.aarch64 import ELR_EL2, ESR_EL2, MADE, REGISTERS, TAKEN_BY_EL2, WINDOW, WINDOW_GPA, AArch64Machine
from stage2.processor import named
from stage2.tables.pagetable import PageTable
from stage2.tables.regime import Regime

machine = machine_fixture(AArch64Machine)


def narrow(table: PageTable, bits: int) -> int:
    return table.format.default_controls & ~OUTPUT_BITS | bits << OUTPUT_BITS_AT


def test_an_ipa_may_be_wider_than_ps(machine: AArch64Machine) -> None:
    """T0SZ 16 with PS 2: what bounds IPAs is the processor (AArch64.S2TxSZFaults, AArch64.S2InvalidSL)."""
    high = 0x7000_0000_0000
    with stage_2(machine, "arm-s2-4k-48") as table:
        table.map_range(high, Hpa(DATA.start), 0x1000, RWX, largest=0x1000)
        machine.memory.store_u64(Hpa(DATA.start + 8), 0x1234)
        machine.enter(None, Regime(table.format, table.root, narrow(table, 40), 3))
        outcome, value, syndrome = probe(machine, high + 8, Access.READ)
        if outcome == TAKEN_BY_EL2 and (ec(syndrome[ESR_EL2]), status(syndrome[ESR_EL2])) == (IABT_LOWER, 0b000100):
            pytest.skip("QEMU before 8.0 takes PS for PARange where it checks IPAs and start levels")
        assert (outcome, value) == (MADE, 0x1234)


def test_an_output_above_ps_is_an_address_size_fault_at_its_level(machine: AArch64Machine) -> None:
    with stage_2(machine, "arm-s2-4k-40") as table:
        table.map_range(GPA, Hpa(DATA.start), 0x1000, RWX, largest=0x1000)
        step = table.explain(GPA).steps[-1]
        machine.memory.store_u64(step.slot_hpa, step.entry | 1 << 40)
        machine.enter(None, Regime(table.format, table.root, narrow(table, 40), 3))
        outcome, _, syndrome = probe(machine, GPA + 8, Access.READ)
        assert outcome == TAKEN_BY_EL2
        assert (ec(syndrome[ESR_EL2]), status(syndrome[ESR_EL2])) == (DABT_LOWER, 0b000011)


def test_a_root_above_ps_is_an_address_size_fault_at_level_0(
    machine: AArch64Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = machine.load

    def load_a_high_root(values: Sequence[int], *, keep_tlb: bool = False) -> None:
        changed = list(values)
        changed[REGISTERS.index("VTTBR_EL2")] |= 1 << 40
        load(changed, keep_tlb=keep_tlb)

    with stage_2(machine, "arm-s2-4k-40") as table:
        monkeypatch.setattr(machine, "load", load_a_high_root)
        machine.enter(None, Regime(table.format, table.root, narrow(table, 40), 3))
        # The guest cannot even fetch the instruction that makes the access.
        outcome, _, syndrome = probe(machine, GPA, Access.READ)
        assert outcome == TAKEN_BY_EL2
        assert (ec(syndrome[ESR_EL2]), status(syndrome[ESR_EL2])) == (IABT_LOWER, 0b000000)


def test_the_syndrome_of_a_trapped_instruction_is_the_cpus(machine: AArch64Machine) -> None:
    with stage_2(machine) as table:
        table.map_range(GPA, Hpa(DATA.start), 0x1000, MappingFlags.EXECUTE)
        machine.enter(None, table.regime)
        for access, user in ((Access.READ, False), (Access.WRITE, False), (Access.READ, True), (Access.WRITE, True)):
            outcome, _, syndrome = probe(machine, GPA + 8, access, user=user)
            assert outcome == TAKEN_BY_EL2
            at = WINDOW.start + syndrome[ELR_EL2] - WINDOW_GPA
            word = machine.memory.load_u64(Hpa(at & ~7)) >> 8 * (at & 4) & 0xFFFF_FFFF
            assert syndrome[ESR_EL2] & 0x1FF_C000 == instruction_syndrome(word) != 0


@pytest.mark.parametrize("name", named("aarch64"))
def test_the_id_registers_of_a_model_are_those_of_the_processor(name: str) -> None:
    kind = type("Model", (AArch64Machine,), {"CPU": name})
    try:
        with or_skip(kind) as model:
            found = identified(model.mmfr0, model.mmfr1, model.mmfr2)
    except MachineError as error:
        if "unable to find CPU model" not in str(error):
            raise
        pytest.skip(f"this QEMU has no {name}")
    processor = named("aarch64")[name]
    assert found == (processor.features, processor.numbers)
