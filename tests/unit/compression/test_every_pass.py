"""One table of all passes: each is run, what it made is loaded and decoded, is rewritten and passed over again."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from asr.runs.checkpoint import AUXILIARIES
from asr.runs.model_folder import load_model, write_weights
from compression.pruning.masks import Masks
from compression.pruning.sites import sites
from distributed.errors import UsageError
from scripts.composition.compose import options
from scripts.compress import main as compress
from scripts.evaluate import main as evaluate


@dataclass(frozen=True)
class Row:
    """A pass: its settings, the passes whose result it needs, and how it refuses its own result, if it does."""

    settings: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    again: str | None = None
    prepare: Callable[[Path], None] = lambda checkpoint: None  # what a checkpoint needs beside its model


def draw_masks(checkpoint: Path) -> None:
    """Masks drawn at random beside a checkpoint's model, as hooks=[structured_pruning] leaves them."""
    masks = Masks(sites(load_model(checkpoint).model), dropped=0.4, minimum=0.1, multiple_of=1)
    named = {f"auxiliary.structured_pruning.masks.{name}": each for name, each in masks.state_dict().items()}
    write_weights(checkpoint / AUXILIARIES, named)


TABLE: dict[str, Row] = {
    "rewrite": Row(),
    "int8": Row(again=r"^the model is quantised already"),
    "int4": Row(again=r"^the model is quantised already"),
    "prune": Row(again=r"^pass=prune: there are no masks", prepare=draw_masks),
    "magnitude": Row(settings=("pass.sparsity=0.3",)),
    "low_rank": Row(settings=("pass.sparsity=0.1",)),
    "pack": Row(after=("int4",), again=r"^the model is packed already"),
}


def test_the_table_has_every_pass() -> None:
    assert TABLE.keys() == set(options("passes"))


@pytest.mark.parametrize("word", TABLE)
def test_a_pass_makes_a_folder_that_loads_decodes_and_is_passed_over_again(
    word: str, random_run: Callable[..., Path]
) -> None:
    run, row = random_run("run"), TABLE[word]

    def make(each: str, source: Path) -> Path:
        name = f"{source.name}-{each}"
        compress([f"run={run}", f"pass={each}", *TABLE[each].settings, f"weights={source}", f"name={name}"])
        return run / "export" / name

    folder = run / "checkpoints" / "step-00000001"
    row.prepare(folder)
    chain = [*row.after, word, "rewrite", *([word] if row.again is None else [])]
    for each in chain:
        folder = make(each, folder)
        evaluate([f"run={run}", f"weights={folder}", "sets=[dev]"])
        assert (folder / "eval" / "dev" / "wer-greedy.json").is_file()
    assert [source["pass"] for source in load_model(folder).description.made_of] == chain
    if row.again is not None:
        with pytest.raises(UsageError, match=row.again):
            make(word, folder)
