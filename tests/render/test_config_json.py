"""Configurations as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stage2.config.load import load_vm
from stage2.config.platform import default_platform
from stage2.render.config_json import platform_json, vm_json

FIXTURES = Path(__file__).parents[1] / "config" / "fixtures"


def described(name: str) -> Any:
    return json.loads(json.dumps(vm_json(load_vm(FIXTURES / name))))


def test_regions_have_upstreams_number_or_the_name_of_their_type() -> None:
    regions = {region["name"]: region for region in described("extensions.toml")["regions"]}
    assert {name: region["map_type"] for name, region in regions.items()} == {
        "main": 0,
        "table": 1,
        "uart": "MMIO",
        "trap": "EMULATED",
        "firmware": "ROM",
        "ring": "SHARE",
    }
    assert {name: region["hpa"] for name, region in regions.items() if region["hpa"] is not None} == {
        "table": 0x9000_0000,
        "uart": 0x2000_0000,
    }
    assert regions["table"]["flags_text"] == "r-----"
    assert regions["table"]["on_violation"] == "discard"
    assert regions["main"]["source"] == f"{FIXTURES / 'extensions.toml'}:16"


def test_devices_images_shares_and_notices_are_listed() -> None:
    head = described("head.toml")
    assert [(d["name"], d["kind"], d["gpa"], d["size"]) for d in head["devices"]] == [
        ("uart", "passthrough", 0x1803, 0x1000),
        ("passthrough_addresses[0]", "passthrough", 0x32B3_0000, 0x1000),
        ("/", "passthrough", None, None),
        ("gicd", "emulated", 0x0800_0000, 0x1_0000),
        ("console", "emulated", None, 8),
    ]
    assert head["devices"][-1]["port"] == 0x3F8
    assert head["images"] == []
    assert [notice["line"] for notice in head["notices"]] == sorted(n["line"] for n in head["notices"])
    ours = described("extensions.toml")
    assert [(i["role"], i["path"], i["load_addr"]) for i in ours["images"]] == [
        ("rom", "fetched:firmware", 0x2000_0000)
    ]
    assert [(s["name"], s["access"], s["peers"]) for s in ours["shares"]] == [("ring", "rw", ["theirs"])]
    seed = described("seed.toml")
    assert [(i["role"], i["path"], i["load_addr"]) for i in seed["images"]] == [
        ("kernel", "kernel.bin", 0x4008_0000),
        ("dtb", "guest.dtb", 0x4000_0000),
    ]


def test_the_default_platform_is_described() -> None:
    vm = load_vm(FIXTURES / "extensions.toml")
    platform: Any = json.loads(json.dumps(platform_json(default_platform([vm], "riscv64"))))
    assert platform["file"] is None
    assert platform["memory"] == [
        {"space": "hpa", "start": 0x9000_0000, "end": 0x9020_0000, "size": 0x20_0000},
        {"space": "hpa", "start": 0x1_0000_0000, "end": 0x1_4000_0000, "size": 0x4000_0000},
    ]
