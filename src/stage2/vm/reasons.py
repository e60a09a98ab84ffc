"""What `check` says of VMs whose isolation is refuted: the same faults, seen in the files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..address import Range
from ..check.every import check_setup
from ..check.finding import Finding
from ..check.setup import Setup
from ..config.together import check_together
from ..errors import ConfigError, ImageError
from ..prove.subject import Subject
from ..prove.theorem import Proof, Reason, Theorem

if TYPE_CHECKING:
    from .host import Host

_ALSO_APART = ("S2403", "S2608", "S2613")
REFUTING = {
    "apart": _ALSO_APART,
    "owned": ("S2110", "S2501", "S2504", "S2505", "S2601", "S2603", "S2611", *_ALSO_APART),
    "declared": ("S2613",),
    "wx": ("S2309",),
    "dma": ("S2701", "S2702", "S2703"),
}
"""The rules that say of files what a refuted theorem says of tables: where one finds something, one is refuted."""
_MAY_REFUTE = {"apart": ("S2604",), "owned": ("S2604",), "dma": ("S2704",)}
"""Rules whose findings are a matter of isolation only where another VM has what they are about."""


def with_reasons(proof: Proof, host: Host, subject: Subject) -> Proof:
    """A proof whose refuted theorems have what `check` says of the same VMs.

    Args:
        proof: of the host.
        host: whose VM files are checked.
        subject: what was proved. `check` knows no tables of IOMMUs: where there are some, `dma` has no reasons.
    """
    if proof.proved:
        return proof
    silent = {"dma"} if any(device.iommu is not None for device in subject.devices) else set()
    try:
        findings = check_setup(_setup(host))
    except (ConfigError, ImageError):
        return proof  # what `check` itself refuses is its own matter: the tables say enough
    found = (_explained(one, findings) if one.name not in silent else one for one in proof.theorems)
    return replace(proof, theorems=tuple(found))


def _explained(theorem: Theorem, findings: list[Finding]) -> Theorem:
    codes = (*REFUTING.get(theorem.name, ()), *_MAY_REFUTE.get(theorem.name, ()))
    if theorem.holds is not False or theorem.witness is None:
        return theorem
    mine = [one for one in findings if one.rule.code in codes]
    span = theorem.witness.span
    # Those about the witness come first; the others are no less true.
    mine.sort(key=lambda one: not _is_about(one, span))
    return replace(theorem, reasons=tuple(Reason(one.rule.code, one.message) for one in mine))


def _is_about(finding: Finding, span: Range | None) -> bool:
    spans = [party.span for party in finding.parties if party.space == "HPA"]
    return span is not None and any(one is not None and one.overlaps(span) for one in spans)


def _setup(host: Host) -> Setup:
    """A host as `check` sees it, where its VMs lie as they were built."""
    conflicts: list[ConfigError] = []
    together = check_together(host.configs, conflicts.append)
    platform = None if host.platform.file is None else host.platform
    files, arch = tuple(host.configs), host.vms[0].arch
    return Setup(
        files, files, tuple(conflicts), platform, host.tree, arch, together=together.notices, kernel=host.kernel
    )
