"""Writing a file so that it is the old one or the new one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mpaudit.errors import MpauditError
from mpaudit.rewrite import write_atomically
from mpaudit.source.text.parsing import Encoding, decode


def names(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


@pytest.mark.parametrize(
    "data",
    [
        b"a = 1\r\nb = 2\r\n",
        b"\xef\xbb\xbfa = 1\n",
        b"# coding: latin-1\nname = '\xe9'\n",
        "# 混合精度\n\tx = 1  # no final newline".encode(),
        b"a = 1\rb = 2\r",
    ],
)
def test_bytes_survive(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "train.py"
    file.write_bytes(data)
    text, encoding = decode(data, str(file))
    write_atomically(file, text, encoding)
    assert file.read_bytes() == data
    write_atomically(file, f"{text}# end", encoding)
    assert file.read_bytes() == data + b"# end"
    assert names(tmp_path) == ["train.py"]


def test_mode_bits_stay(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text("a = 1\n")
    file.chmod(0o750)
    write_atomically(file, "a = 2\n", Encoding())
    assert stat.S_IMODE(file.stat().st_mode) == 0o750


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.py").write_text("a = 1\n")
    link = tmp_path / "link.py"
    link.symlink_to("real.py")
    write_atomically(link, "a = 2\n", Encoding())
    assert link.is_symlink()
    assert (tmp_path / "real.py").read_text() == "a = 2\n"


def test_a_text_that_does_not_fit_the_encoding_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_bytes(b"# coding: latin-1\n")
    with pytest.raises(MpauditError, match=r"cannot write the repaired .*latin-1 has no '混'"):
        write_atomically(file, "# 混\n", Encoding("latin-1"))
    assert file.read_bytes() == b"# coding: latin-1\n"


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "train.py"
    file.write_text("a = 1\n")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(MpauditError, match="No space left on device; the file is unchanged"):
        write_atomically(file, "a = 2\n", Encoding())
    assert file.read_text() == "a = 1\n"
    assert names(tmp_path) == ["train.py"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write read-only files")
def test_a_read_only_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text("a = 1\n")
    file.chmod(0o444)
    with pytest.raises(MpauditError, match="read-only"):
        write_atomically(file, "a = 2\n", Encoding())
    assert file.read_text() == "a = 1\n"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MpauditError, match="cannot write"):
        write_atomically(tmp_path / "gone.py", "a = 1\n", Encoding())
    assert names(tmp_path) == []
