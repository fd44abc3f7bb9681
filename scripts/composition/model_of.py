"""``model_of``: builds the model of a model folder instead of ``model=``, with all its sizes and transforms."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from asr.foreign.yaml_text import read_yaml
from asr.runs.run_folder import RunFolder
from distributed.errors import UsageError


def take_model(config: DictConfig, overrides: Sequence[Override], folder: Callable[[], Path]) -> None:
    """Replace ``model`` by the one that ``model_of`` names, without the sizes that follow from a run's data.

    A run established in ``folder()`` goes on with the model in its config.yaml, also if the named folder is gone.

    Raises:
        UsageError: the command also sets ``model``, or there is no such model folder.
    """
    if config.get("model_of") is None:
        return
    for override in overrides:
        if re.match(r"model([./]|$)", str(override.key_or_group)):
            raise UsageError(
                f"{override.input_line}: model_of={config.model_of} brings its own model; leave one of them out"
            )
    established = RunFolder(folder()).config
    if established.is_file():
        earlier = read_yaml(established)
        if isinstance(earlier, dict) and earlier.get("model_of") == config.model_of and "transforms" in earlier:
            config.model, config.transforms = earlier["model"], earlier["transforms"]
            return
    from asr.data.material import SIZES  # imported late, as it loads torch
    from asr.runs.checkpoint import model_folder_of
    from asr.runs.model_folder import check_sizes, read_description

    source = model_folder_of(Path(config.model_of), "model_of")
    description, _ = read_description(source, "model_of")
    check_sizes(source, description)
    config.model = {key: value for key, value in description.model.items() if key not in SIZES}
    config.transforms = description.transforms
