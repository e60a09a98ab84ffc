"""Who can change, or read, the tables themselves: S3005 and S3006."""

from __future__ import annotations

from collections.abc import Iterator

from ...check.finding import Finding, Severity
from ...prove.packing import U64Array
from .reach import ANY_READ, ANY_WRITE, PRIVILEGED_WRITE, USER_READ, USER_WRITE, Layer, Reach
from .scene import Scene
from .spans import common, without
from .telling import rule, tell

OPEN_TABLES = rule(
    "S3005", Severity.ERROR, "tables lie where those they confine can reach them",
    "Who writes an entry maps what he likes: a guest leaves its VM, a program its process. Who only reads them learns "
    "where everything lies; that is a warning.",
)  # fmt: skip
OWN_TABLES = rule(
    "S3006", Severity.NOTE, "a kernel can write its own tables",
    "Nearly every kernel maps its tables writable, so that one stray write of it changes what is mapped. pKVM, and "
    "kernels under a monitor, do not.",
)  # fmt: skip
RULES = (OPEN_TABLES, OWN_TABLES)


def check_writable_tables(scene: Scene) -> Iterator[Finding]:
    """Guests at the hypervisor's tables, user mode at anybody's, kernels at their own.

    What a VM's memory holds its monitor on the host maps too, as user mode: a guest's tables count against the host's
    user mode as little as the rest of the guest's memory does.
    """
    for reach in scene.of_layer(Layer.VM):
        whose = "tables of the hypervisor or of a stage 2"
        firm = scene.hypervisor_tables(guessed=False)
        yield from _open(scene, reach, firm, (ANY_WRITE, ANY_READ), "the guest", whose)
        doubtful = without(scene.hypervisor_tables(), firm)
        whose = "what seem to be tables, by a root that a search found"
        yield from _open(scene, reach, doubtful, (ANY_WRITE, ANY_READ), "the guest", whose, Severity.WARNING)
    for reach in scene.of_layer(Layer.OWN, Layer.GUEST):
        yield from _open(scene, reach, _tables_of(scene, reach), (USER_WRITE, USER_READ), "user mode", "tables")
    for reach in scene.of_layer(Layer.OWN, Layer.GUEST):
        rows = reach.allowing(PRIVILEGED_WRITE)
        own = common(reach.spans(rows), _tables_of(scene, reach))
        if len(own):
            text = f"{reach.party.name}: supervisor mode may write {{amount}} of its own tables"
            yield tell(OWN_TABLES, scene.source, own, [(reach, rows, "supervisor mode")], text)


def _tables_of(scene: Scene, reach: Reach) -> U64Array:
    """The tables that confine somebody's programs."""
    if reach.party.layer is Layer.OWN:
        return scene.hypervisor_tables()
    return scene.tables_of(lambda party: party.layer is Layer.GUEST and party.vm == reach.party.vm)


def _open(
    scene: Scene,
    reach: Reach,
    tables: U64Array,
    permissions: tuple[int, int],
    who: str,
    whose: str,
    severity: Severity | None = None,
) -> Iterator[Finding]:
    write, read = (reach.allowing(permission) for permission in permissions)
    written = common(reach.spans(write), tables)
    if len(written):
        text = f"{reach.party.name}: {who} may write {{amount}} of {whose}"
        fix = "take these pages out of the mapping"
        yield tell(OPEN_TABLES, scene.source, written, [(reach, write, "writable")], text, severity=severity, fix=fix)
    seen = without(common(reach.spans(read), tables), written)
    if len(seen):
        text = f"{reach.party.name}: {who} may read {{amount}} of {whose}"
        ways = [(reach, read, "readable")]
        yield tell(OPEN_TABLES, scene.source, seen, ways, text, severity=Severity.WARNING)
