"""Tables, manifests, lists, tokenizers and rows that somebody else wrote: read, or refused in one line, within two seconds."""

from pathlib import Path

import pytest

from tests.unit.hostile.cases import check_every_case
from tests.unit.hostile.readers import READERS

CHANGED = 10  # ways to damage a good file, beside those of every file
FIRST = ("kaldi", "speechocean762", "switchboard")  # layouts of many tables, read alike: of these the first two


@pytest.mark.parametrize("name", READERS)
def test_a_foreign_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    reader = READERS[name]
    reader.make(tmp_path)
    files = reader.files[:2] if name in FIRST else reader.files
    assert sum(check_every_case(tmp_path, file, reader.read, CHANGED) for file in files) >= 50
