import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.format.strategies import names
from tritonsync.errors import PackError
from tritonsync.format.pack import MAX_FILE_SIZE, TAR_BLOCK, TAR_END, tar_header, tar_padding, tar_size


@given(st.lists(names, min_size=1, max_size=4).map("/".join), st.binary(max_size=1100))
def test_tarfile_reads_every_header(path: str, content: bytes) -> None:
    """Names of every length arrive in Python's own reader, and nothing about the host is in the archive."""
    archive = tar_header(path, len(content)) + content + tar_padding(len(content)) + TAR_END
    assert len(archive) == tar_size(path, len(content)) + len(TAR_END)
    with tarfile.open(fileobj=io.BytesIO(archive)) as reader:
        (member,) = reader.getmembers()
        assert (member.name, member.size, member.isreg()) == (path, len(content), True)
        assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)
        extracted = reader.extractfile(member)
        assert extracted is not None
        assert extracted.read() == content


def test_sizes_have_a_bound() -> None:
    """What eleven octal digits cannot say is refused before a wrong header is written."""
    assert len(tar_header("a", MAX_FILE_SIZE)) == TAR_BLOCK
    with pytest.raises(PackError, match="8589934592"):
        tar_header("a", MAX_FILE_SIZE + 1)
