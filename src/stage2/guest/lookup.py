"""What few addresses lead to by the tables of both stages, with as little compiled as possible.

The kernel that looks ahead is for millions of addresses; compiling it for a pair of formats takes five times as long as
compiling the one that goes address by address, which answers the same.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from ..flags import Access
from ..formats.record import Format
from ..tables.batch import TwoStageBatch
from ..tables.compiled import HostMemory, Kernel, keep_marks_back, kernel
from ..tables.regime import Regime
from ..tables.result import need_mask
from ..tables.two_stage_kernel import one_by_one, steps


@cache
def _kernel(first: Format, second: Format) -> Kernel:
    return kernel(one_by_one(first, second, keep_marks_back), first, second)


def look_up(
    host: HostMemory,
    stage_1: Regime,
    stage_2: Regime,
    gvas: npt.ArrayLike,
    access: Access | None = None,
    *,
    user: bool = False,
) -> TwoStageBatch:
    """Answer as `tables.batch.translate_two_stage_batch` does without marks.

    Args:
        host: memory that both stages' tables lie in.
        gvas: guest virtual addresses, an array of one dimension.
    """
    inputs = np.require(gvas, np.uint64, ["C", "A"])
    count = len(inputs)
    found = TwoStageBatch(
        np.empty(count, np.uint64), np.empty(count, np.uint64), np.empty(count, np.uint8), np.empty(count, np.uint32),
        inputs, access,
    )  # fmt: skip
    first, second = (tuple(np.uint64(number) for number in regime.numbers) for regime in (stage_1, stage_2))
    need, write = np.uint64(need_mask(access, user=user)), np.uint64(access is Access.WRITE)
    pair = stage_1.format, stage_2.format
    _kernel(*pair).for_work(lambda: count * steps(*pair))(
        host, first, second, need, write, inputs, found.hpa, found.gpa, found.permissions, found.status
    )
    return found
