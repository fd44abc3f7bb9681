"""What tests of several packages need."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from asr.data.nbest import FORMAT, HEADER, Header, NBest, shard_file
from asr.data.tokenizer import Tokenizer


@pytest.fixture
def write_lists(tmp_path: Path) -> Callable[..., Path]:
    """Write n-best lists as scripts/make_nbest.py does; returns their folder. Changes are those of the header."""

    def write(lists: Mapping[str, Sequence[Sequence[int]]], tokenizer: Tokenizer, **changes: Any) -> Path:
        settings: dict[str, Any] = {
            "format": FORMAT, "tokenizer": tokenizer.fingerprint, "run": "exp/a", "checkpoint": "step-1", "search": {},
            "hypotheses": 20, "split": "train", "utterances": len(lists), "corpus": 1, "shard_utterances": 2,
        }  # fmt: skip
        header, folder = Header(**(settings | changes)), tmp_path / "nbest"
        folder.mkdir(exist_ok=True)
        (folder / HEADER).write_text(header.text())
        rows = [NBest(name, found, [-float(rank) for rank in range(len(found))]) for name, found in lists.items()]
        for shard in range(header.shards):
            own = rows[shard * header.shard_utterances :][: header.shard_utterances]
            shard_file(folder, shard).write_text("".join(each.line() for each in own))
        return folder

    return write
