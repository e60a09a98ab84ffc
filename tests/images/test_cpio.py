"""The cpio archive by its own format, where the cpio program is not asked."""

from __future__ import annotations

import stat

from hypothesis import given
from hypothesis import strategies as st

from stage2.images.cpio import Entry, archive

PATHS = st.from_regex(r"[a-z]{1,12}(/[a-z]{1,9})?", fullmatch=True)
ENTRIES = st.lists(
    st.builds(
        Entry,
        PATHS,
        st.sampled_from([stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o755]),
        st.binary(max_size=40),
        st.tuples(st.integers(0, 255), st.integers(0, 255)),
    ),
    max_size=6,
)


def unpack(data: bytes) -> list[tuple[int, Entry]]:
    """(inode, entry) of each member up to the trailer; every header and every content must begin on four bytes."""
    found: list[tuple[int, Entry]] = []
    at = 0
    while True:
        assert at % 4 == 0
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        inode, mode, size, major, minor, name_size = fields[0], fields[1], fields[6], fields[9], fields[10], fields[11]
        name = data[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        start = (at + 110 + name_size + 3) // 4 * 4
        at = (start + size + 3) // 4 * 4
        if name == b"TRAILER!!!\0":
            assert at == len(data)
            return found
        assert fields[2:4] == [0, 0], "not owned by root"
        assert fields[5] == 0, "a time would make two archives of one content differ"
        found.append((inode, Entry(name[:-1].decode(), mode, data[start : start + size], (major, minor))))


@given(ENTRIES)
def test_an_archive_holds_what_was_put_in_and_the_same_bytes_each_time(entries: list[Entry]) -> None:
    found = unpack(archive(entries))
    assert [entry for _, entry in found] == entries
    assert len({inode for inode, _ in found}) == len(found), "two members with one inode are hard links to Linux"
    assert archive(entries) == archive(entries)
