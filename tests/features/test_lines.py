"""Each line is read once, whoever reads and however it is cut."""

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpips.errors import UsageError
from mpips.features import lines as module
from mpips.features.lines import Lines


@settings(max_examples=60)
@given(lengths=st.lists(st.integers(0, 9), max_size=12), block=st.integers(1, 15), parts=st.integers(1, 4), end=st.booleans(),
       gz=st.booleans())
def test_every_line_once_for_any_number_of_parts(tmp_path_factory, lengths, block, parts, end, gz):
    text = b"\n".join(b"%d" % (k % 10) * n for k, n in enumerate(lengths)) + (b"\n" if end else b"")
    path = tmp_path_factory.mktemp("lines") / ("x.gz" if gz else "x")
    path.write_bytes(gzip.compress(text, 1) if gz else text)
    file = Lines(path, block)
    assert file.size == len(text)
    found = [b for part in range(parts) for b in file.blocks(part, parts)]
    whole = text if not text or text.endswith(b"\n") else text + b"\n"
    assert b"".join(b.text for b in sorted(found)) == whole
    for b in found:
        assert whole[b.start : b.start + len(b.text)] == b.text
        assert file.line(b.start) == 1 + whole[: b.start].count(b"\n")
    cut = file.count // 2
    assert [*file.blocks(0, 1, file.count, file.count + 2)] == []
    split = [*file.blocks(0, 1, 0, cut), *file.blocks(0, 1, cut)]
    assert b"".join(b.text for b in split) == whole


def test_a_part_reads_little_more_than_its_blocks(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"0123456789\n" * 10_000)
    assert sum(len(b.text) for b in Lines(tmp_path / "x", 1000).blocks(3, 11)) == pytest.approx(10_000, rel=0.01)


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="nothing: No such file"):
        Lines(tmp_path / "nothing")
    (tmp_path / "x.gz").write_bytes(b"no gzip")
    with pytest.raises(UsageError, match=r"x\.gz: Not a gzipped file"):
        Lines(tmp_path / "x.gz").size  # noqa: B018
    (tmp_path / "y.gz").write_bytes(gzip.compress(bytes(range(256)) * 99)[:-20])
    with pytest.raises(UsageError, match=r"y\.gz: "):
        Lines(tmp_path / "y.gz").size  # noqa: B018
    monkeypatch.setattr(module, "LONGEST", 10)
    (tmp_path / "z").write_bytes(b"a\n" + b"b" * 99)
    with pytest.raises(UsageError, match="z:2: a line of more than 10 bytes"):
        list(Lines(tmp_path / "z", 4).blocks())
    (tmp_path / "z").write_bytes(b"a\n" + b"b" * 11 + b"\nc")  # ten after the block, with its end
    assert [block.text for block in Lines(tmp_path / "z", 4).blocks()] == [b"a\n" + b"b" * 11 + b"\n", b"c\n"]
