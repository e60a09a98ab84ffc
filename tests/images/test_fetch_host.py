"""Fetching and its host: which archive is taken, what is left behind, what a failure says; on text fixtures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stage2.errors import HostToolError, ImageError
from stage2.images import fetch as fetching
from stage2.images.apt import PrivateApt, private_sources, reason, updated
from stage2.images.aptsources import Source, parse_deb822, parse_one_line
from stage2.images.fetch import RECIPES, fetch, fetched
from stage2.images.initramfs import recipe_hash
from stage2.images.store import sha256

GUEST = "linux-riscv64"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def private(sources: list[Source]) -> Source:
    (source,) = parse_deb822(private_sources(sources, "trixie", "riscv64"))
    return source


@pytest.mark.parametrize("signed_by", [KEYRING, None])
def test_debian_is_taken_though_another_publisher_with_a_main_component_comes_first(signed_by: str | None) -> None:
    other = Source("http://pkg.example/tool", ("any",), ("main",), "/usr/share/keyrings/tool.gpg")
    debian = Source("http://mirror.example/debian/", ("bookworm",), ("main",), signed_by)
    assert private([other, debian]).uri == debian.uri


def test_the_key_is_used_as_configured_in_fixtures_of_each_form() -> None:
    two = parse_deb822(
        f"Types: deb\nURIs: http://m.example/debian\nSuites: s\nComponents: main\nSigned-By: {KEYRING} /b.gpg\n"
    )
    assert private(two).signed_by == f"{KEYRING} /b.gpg"
    block = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ==\n -----END PGP PUBLIC KEY BLOCK-----"
    inline = parse_deb822(
        f"Types: deb\nURIs: http://m.example/debian\nSuites: s\nComponents: main\nSigned-By:{block}\n"
    )
    assert inline[0].signed_by == block
    assert private(inline).signed_by == block
    tabbed = parse_one_line(f"deb\t[signed-by={KEYRING}]\thttp://m.example/debian\tbookworm\tmain\n")
    assert private(tabbed).signed_by == KEYRING


def test_what_a_killed_fetch_left_is_removed_by_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    left = tmp_path / f".{GUEST}-killed"
    (left / "apt").mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostToolError, match="apt-get"):
        fetch(GUEST, cache=tmp_path)
    assert not left.exists()


def test_a_cache_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostToolError, match=r"cannot be kept.*file"):
        fetch(GUEST, cache=tmp_path / "file")


def test_a_ramdisk_with_another_init_than_ours_is_asked_for_anew(tmp_path: Path) -> None:
    folder = tmp_path / GUEST
    folder.mkdir()
    entries = {}
    for role, name in (("kernel", "kernel"), ("ramdisk", "initramfs.cpio")):
        (folder / name).write_bytes(b"x")
        entries[role] = {"file": name, "sha256": sha256(folder / name)}
    manifest = {"packages": [], **entries, "initramfs_recipe": recipe_hash()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert fetched(GUEST, tmp_path).kernel == folder / "kernel"
    (folder / "manifest.json").write_text(json.dumps({**manifest, "initramfs_recipe": "older"}))
    with pytest.raises(ImageError, match="another version of stage2: run `stage2 fetch linux-riscv64`"):
        fetched(GUEST, tmp_path)


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("W: Failed to fetch URL  Could not resolve 'm'\nW: Some index files failed to download.", "Could not resolve"),
        ("W: GPG error: NO_PUBKEY 1\nE: The repository 'x' is not signed.", "debian-archive-keyring"),
        ("N: a note\nE: Unable to locate package x", "Unable to locate"),
    ],
)
def test_a_failure_of_apt_is_told_by_its_reason_not_by_its_last_line(output: str, says: str) -> None:
    assert says in reason(output)


def test_a_new_init_is_put_around_the_old_busybox_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / GUEST
    folder.mkdir()
    (folder / "kernel").write_bytes(b"kernel")
    (folder / "busybox").write_bytes(b"busybox of the old fetch")
    fetching._complete(GUEST, folder, ["busybox 1"])
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "initramfs_recipe": "older"}))
    (folder / "initramfs.cpio").write_bytes(b"made by an older version")
    monkeypatch.setenv("PATH", "")
    guest = fetch(GUEST, cache=tmp_path)
    assert guest.packages == ("busybox 1",)
    assert b"busybox of the old fetch" in guest.ramdisk.read_bytes()
    (folder / "busybox").write_bytes(b"changed by somebody")
    (folder / "manifest.json").write_text(json.dumps({**manifest, "initramfs_recipe": "older"}))
    with pytest.raises(HostToolError, match="fetching needs apt-get"):
        fetch(GUEST, cache=tmp_path)


@pytest.mark.parametrize(("codename", "taken"), [("trixie", "stable"), ("forky", None)])
def test_a_half_updated_mirror_is_asked_for_the_release_by_its_other_name_with_a_fake_apt(
    codename: str, taken: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def update(apt: PrivateApt) -> None:
        if apt.suite == "trixie":
            raise HostToolError("File has unexpected size")
        (apt.lists / "mirror_dists_stable_InRelease").write_text(f"Suite: stable\nCodename: {codename}\n")

    monkeypatch.setattr(PrivateApt, "update", update)
    if taken is None:
        with pytest.raises(HostToolError, match="unexpected size"):
            updated(tmp_path, RECIPES[GUEST].release)
    else:
        assert updated(tmp_path, RECIPES[GUEST].release).suite == taken
