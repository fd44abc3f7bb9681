"""N-best lists as scripts/make_nbest.py writes them, of anything."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asr.data.manifest import Utterance
from asr.data.nbest import FORMAT, HEADER, Header, NBest, shard_file, truth_of
from asr.data.tokenizer import Tokenizer


def write_nbest(
    folder: Path,
    lists: Mapping[str, Sequence[Sequence[int]]],
    tokenizer: Tokenizer,
    utterances: Sequence[Utterance] = (),
    **changes: Any,
) -> Path:
    """Write n-best lists of ``utterances`` into a folder, and return it; changes are those of the header."""
    settings: dict[str, Any] = {
        "format": FORMAT, "tokenizer": tokenizer.fingerprint, "run": "exp/a", "checkpoint": "step-1", "weights": 1,
        "search": {}, "language_models": [], "hypotheses": 20, "split": "train", "utterances": len(lists), "corpus": 1, "shard_utterances": 2,
    }  # fmt: skip
    header = Header(**(settings | changes))
    folder.mkdir(exist_ok=True)
    (folder / HEADER).write_text(header.text())
    truths = {each.id: truth_of(each) for each in utterances}
    rows = [
        NBest(name, truths.get(name, 0), found, [-float(rank) for rank in range(len(found))])
        for name, found in lists.items()
    ]
    for shard in range(header.shards):
        own = rows[shard * header.shard_utterances :][: header.shard_utterances]
        shard_file(folder, shard).write_text("".join(each.line() for each in own))
    return folder
