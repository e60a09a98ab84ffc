"""The processor of this machine, as Linux tells of it."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from ..errors import ConfigError
from .record import Processor
from .x86 import AMD, INTEL, PARTS

CPUINFO = Path("/proc/cpuinfo")
_FLAGS = {"nx": "nx", "la57": "la57", "pdpe1gb": "gib-pages"}
"""Flag of /proc/cpuinfo -> feature."""
_VMX_FLAGS = {
    "ept_5level": "ept-5level",
    "ept_1gb": "ept-gib-pages",
    "ept_ad": "ept-ad",
    "ept_x_only": "ept-execute-only",
    "ept_mode_based_exec": "mbec",
}
"""The same of its `vmx flags`."""
_VENDORS = {"GenuineIntel": INTEL, "AuthenticAMD": AMD, "HygonGenuine": AMD}


def host_processor(arch: str, cpuinfo: Path = CPUINFO) -> Processor:
    """What /proc/cpuinfo says of this machine's first CPU.

    Raises:
        ConfigError: the machine is of another architecture, or the file does not say what is needed.
    """
    machine = platform.machine()
    if arch != "x86_64" or machine != arch:
        raise ConfigError(f"host: this machine is {machine}, and only x86_64 tells its features to programs")
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    except OSError as error:
        raise ConfigError(f"host: {cpuinfo}: {error.strerror}") from None
    lines: dict[str, str] = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", text, re.MULTILINE))
    width = re.match(r"(\d+) bits physical", lines.get("address sizes", ""))
    if width is None:
        raise ConfigError(f"host: {cpuinfo} has no line `address sizes`: name a processor, or pa=N")
    flags, vmx = set(lines.get("flags", "").split()), set(lines.get("vmx flags", "").split())
    features = {feature for flag, feature in _FLAGS.items() if flag in flags}
    features |= {feature for flag, feature in _VMX_FLAGS.items() if flag in vmx}
    vendor = _VENDORS.get(lines.get("vendor_id", ""), lines.get("vendor_id", "unknown"))
    title = lines.get("model name", "this machine's processor")
    return Processor("host", PARTS, vendor, frozenset(features), {"pa": int(width[1]), "c-bit": 0}, title)
