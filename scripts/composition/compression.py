"""Runs a compression pass on a run's checkpoint, or on an earlier pass's result, and writes a new model folder."""

import re
from collections.abc import Iterable
from pathlib import Path

from asr.data.batch import Batch
from asr.foreign.terminal import log_to_stderr, say
from asr.parts import build
from asr.runs.model_folder import WEIGHTS
from asr.runs.run_folder import RunFolder
from compression.compress import Pass, compress
from distributed.errors import UsageError
from scripts.composition.compose import compose, options
from scripts.composition.evaluation import named_set
from scripts.composition.trained import load_trained


def run(arguments: list[str]) -> None:
    """Run the pass that the overrides in ``arguments`` choose and print one line about the folder written.

    The run may be that of a language model.
    """
    log_to_stderr()
    written = [re.sub(r"^pass(?=[=.])", "passes", argument) for argument in arguments]  # `pass` is a word of Python's
    chosen = next((each.partition("=")[2] for each in reversed(written) if each.startswith("passes=")), None)
    if chosen is None:
        raise UsageError(f"pass is not set; choose one: pass={'|'.join(options('passes'))}")
    try:
        config = compose("compress", written)
    except UsageError as error:
        raise UsageError(re.sub(r"\bpasses(?=[=.])", "pass", str(error))) from None
    name = str(config.name or chosen)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name):
        raise UsageError(f"name={name}: must be the name of a folder, of letters, digits, '_', '.', '+' and '-'")
    apply: Pass = build(config.passes)
    weights = None if config.weights is None else Path(config.weights)
    trained = load_trained(Path(config.run), config.checkpoint, config.threads, weights=weights, settings=None)

    def batches(split: str) -> Iterable[Batch]:
        return named_set(trained, split, config.unit_utterances).batches()

    folder = RunFolder(trained.folder).export(name)
    compress(apply, trained.loaded, batches, folder, chosen)
    size = (folder / WEIGHTS).stat().st_size
    say(f"{folder}: {chosen} of {trained.checkpoint}, {size / 2**20:.2f} MiB of weights")
