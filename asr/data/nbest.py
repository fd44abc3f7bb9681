"""N-best lists: a search's hypotheses for each utterance of a split, best first; scripts/make_nbest.py writes them.

    <folder>/header.json            what made them, the split and the tokens they are for
    <folder>/00000.jsonl, ...       utterances, a shard of them per file: {"id", "truth", "hypotheses": [[token]], "scores"}

Different corpora use the same utterance ids, so ``truth``, a fingerprint of text and duration, identifies the utterance
of a list. A shard is written whole or not at all, and the header determines which utterances it holds, so that writing
can stop and go on. In memory all hypotheses of a split are one tensor of small integers, which loading processes share.

N tokens of all hypotheses   H hypotheses   U utterances
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr.data.manifest import Utterance
from asr.data.tokenizer import Tokenizer
from asr.foreign.files import ROWS, ForeignError, read_lines
from asr.foreign.json_text import parse_json, read_json
from distributed.errors import UsageError
from distributed.keyed import keyed_seed

FORMAT = 3
HEADER = "header.json"
MOST_UTTERANCES = 10**9  # limit per split, as a shard holds at least one
MOST_SHARDS = 10**6
REMEDY = "write the lists anew: python scripts/make_nbest.py run=exp/..."


class NBestError(UsageError):
    """The N-best lists cannot be used; the message names the folder and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The settings that determine the lists; two calls with the same header write the same lists."""

    format: int
    tokenizer: str  # fingerprint of the tokens
    run: str
    checkpoint: str
    weights: int  # fingerprint of the recogniser's: a run of this name may be another one since
    search: Mapping[str, Any]  # its settings
    language_models: Sequence[int]  # fingerprints of the weights of those that took part, the external one first
    hypotheses: int  # kept of each utterance, at most
    split: str
    utterances: int  # number of usable utterances in the split
    corpus: int  # fingerprint of their ids and truths, in their order
    shard_utterances: int

    @property
    def shards(self) -> int:
        """Number of shard files in complete lists."""
        return -(-self.utterances // self.shard_utterances)

    def text(self) -> str:
        """The JSON text of the file ``header.json``."""
        return json.dumps(asdict(self), indent=2) + "\n"


@dataclass(frozen=True, slots=True)
class NBest:
    """The N-best list of one utterance."""

    utterance_id: str
    truth: int  # fingerprint of what was decoded, see ``truth_of``
    hypotheses: Sequence[Sequence[int]]  # tokens, best first
    scores: Sequence[float]  # their log probabilities, as the search gives them

    def line(self) -> str:
        """The line of JSON that a shard holds for the utterance."""
        row = {"id": self.utterance_id, "truth": self.truth, "hypotheses": self.hypotheses, "scores": self.scores}
        return json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"


def truth_of(utterance: Utterance) -> int:
    """Fingerprint of text and duration (in milliseconds), which tells utterances of the same id apart."""
    return keyed_seed(utterance.text, f"{utterance.duration:.3f}")


def corpus_of(utterances: Iterable[Utterance]) -> int:
    """Fingerprint of the utterances and their order."""
    return keyed_seed(*(part for each in utterances for part in (each.id, truth_of(each))))


def shard_file(folder: Path, shard: int) -> Path:
    """Name of the file that holds a shard, whose first utterance has the index ``shard * shard_utterances``."""
    return folder / f"{shard:05d}.jsonl"


def read_header(folder: Path) -> Header:
    """Read the header of the lists in a folder.

    Raises:
        NBestError: there is none, or one of another version of this program.
    """
    path = folder / HEADER
    try:
        values = read_json(path)
    except ForeignError as error:
        raise NBestError(f"{path}: no n-best lists that can be read ({error.reason}); {REMEDY}") from None
    if values.get("format") != FORMAT or values.keys() != {each.name for each in fields(Header)}:
        raise NBestError(f"{path}: n-best lists of another format than {FORMAT}; remove the folder, then {REMEDY}")
    if (wrong := _header_defect(values)) is not None:
        raise NBestError(f"{path}: no n-best lists that can be read ({wrong}); {REMEDY}")
    return Header(**values)


def _header_defect(values: Mapping[str, Any]) -> str | None:
    kinds = {"search": "dict", "language_models": "list"} | dict.fromkeys(
        ("tokenizer", "run", "checkpoint", "split"), "str"
    )
    for key, value in values.items():
        if type(value).__name__ != kinds.get(key, "int") or (type(value) is int and value < 0):
            return f"{key} is {str(value)[:80]!r}"
    utterances, together = values["utterances"], values["shard_utterances"]
    if together < 1 or utterances > MOST_UTTERANCES or utterances // together > MOST_SHARDS:
        return f"{utterances} utterances in shards of {together}"
    return None


@dataclass(frozen=True, slots=True)
class NBestLists:
    """All N-best lists of a split."""

    tokens_N: Tensor  # int16 where the vocabulary fits, else int32
    ends_H: Tensor  # (H + 1,) int64: hypothesis h is tokens ends[h] to ends[h + 1]
    firsts_U: Tensor  # (U + 1,) int64: utterance u has hypotheses firsts[u] to firsts[u + 1]
    truths_U: Tensor  # int64, see ``truth_of``
    rows: Mapping[str, int]  # utterance id -> u

    def __contains__(self, utterance_id: str) -> bool:
        return utterance_id in self.rows

    def truth(self, utterance_id: str) -> int:
        """The fingerprint of the utterance that was decoded."""
        return int(self.truths_U[self.rows[utterance_id]])

    def lengths(self, utterance_id: str, best: int) -> list[int]:
        """Number of tokens in each of the first ``best`` hypotheses of an utterance."""
        first, last = self.firsts_U[self.rows[utterance_id] :][:2].tolist()
        return self.ends_H[first : min(first + best, last) + 1].diff().tolist()

    def hypothesis(self, utterance_id: str, rank: int) -> list[int]:
        """Tokens of the hypothesis of a rank; the best hypothesis has rank 0."""
        first = int(self.firsts_U[self.rows[utterance_id]]) + rank
        begin, end = self.ends_H[first : first + 2].tolist()
        return self.tokens_N[begin:end].tolist()


def read_nbest(folder: Path, tokenizer: Tokenizer) -> tuple[Header, NBestLists]:
    """All lists of a folder, for a model that writes the tokens of ``tokenizer``.

    Raises:
        NBestError: they are of other tokens, not complete, or damaged.
    """
    header = read_header(folder)
    if header.tokenizer != tokenizer.fingerprint:
        raise NBestError(
            f"{folder}: its hypotheses are tokens of another tokenizer (of run {header.run}); train with the tokenizer "
            "of the run that was decoded, or decode with a run that has this one"
        )
    there = {path.name for path in folder.glob("*.jsonl")}
    missing = [shard for shard in range(header.shards) if shard_file(folder, shard).name not in there]
    if missing:
        raise NBestError(
            f"{folder}: {len(missing)} of {header.shards} shards are missing, {shard_file(folder, missing[0]).name} first; "
            "repeat the command of scripts/make_nbest.py, which goes on where it stopped"
        )
    dtype = np.int16 if tokenizer.vocabulary_size <= np.iinfo(np.int16).max else np.int32
    return header, packed(_read_shards(folder, header, tokenizer.vocabulary_size), dtype)


def packed(lists: Iterable[NBest], dtype: type[np.signedinteger[Any]]) -> NBestLists:
    """Pack the lists into flat tensors; where an utterance occurs twice, the later list counts."""
    rows: dict[str, int] = {}
    tokens, ends, firsts, truths = [np.zeros(0, dtype)], [0], [0], list[int]()
    for row, each in enumerate(lists):
        rows[each.utterance_id] = row
        lengths = [len(hypothesis) for hypothesis in each.hypotheses]
        tokens.append(np.fromiter((t for hypothesis in each.hypotheses for t in hypothesis), dtype, sum(lengths)))
        ends.extend(lengths)
        firsts.append(len(lengths))
        truths.append(each.truth)
    return NBestLists(
        torch.from_numpy(np.concatenate(tokens)),
        torch.tensor(ends, dtype=torch.int64).cumsum(0),
        torch.tensor(firsts, dtype=torch.int64).cumsum(0),
        torch.tensor(truths, dtype=torch.int64),
        rows,
    )


def _read_shards(folder: Path, header: Header, vocabulary_size: int) -> Iterator[NBest]:
    for shard in range(header.shards):
        file = shard_file(folder, shard)
        try:
            for number, line in read_lines(file, ROWS):
                try:
                    yield _parsed(parse_json(line), vocabulary_size)
                except (ValueError, TypeError, KeyError) as error:
                    raise NBestError(f"{file}:{number}: damaged ({error!r}); delete the file and {REMEDY}") from None
        except ForeignError as error:
            raise NBestError(f"{error}; delete the file and {REMEDY}") from None


def _parsed(row: Any, vocabulary_size: int) -> NBest:
    """Parse a line; ValueError, TypeError or KeyError unless it is a list of tokens within the vocabulary."""
    each = NBest(row["id"], row["truth"], row["hypotheses"], row["scores"])
    tokens = [token for hypothesis in each.hypotheses for token in hypothesis]
    if not isinstance(each.utterance_id, str) or not isinstance(each.truth, int) or each.truth >= 2**63:
        raise ValueError("its id is no text, or its truth no number of 63 bits")
    if any(type(token) is not int for token in tokens) or (
        tokens and not 0 <= min(tokens) <= max(tokens) < vocabulary_size
    ):
        raise ValueError(f"it has tokens beyond the {vocabulary_size} of the vocabulary")
    return each
