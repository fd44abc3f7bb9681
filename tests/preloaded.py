"""What the server that tests fork from has loaded and done before: all that an entry point would load, and one composition.

A learner that is forked takes half of the time for its first step that it would take otherwise: torchaudio loads its data sets, Hydra its
plugins and the tables of its grammar, in every process that has not got them. Nothing is chosen or built here.
"""

import gc
import importlib

from scripts.composition.compose import compose
from scripts.composition.startup import REPOSITORY

FOLDERS = (
    "scripts/composition", "asr/models", "asr/hooks", "asr/training", "asr/losses", "asr/decoding", "compression/quantization",
    "distributed/schemes",
)  # fmt: skip
OTHERS = ("torch._dynamo", "torch.utils.tensorboard", "torchaudio.compliance.kaldi")

for folder in FOLDERS:
    for path in sorted((REPOSITORY / folder).glob("[a-z]*.py")):
        importlib.import_module(f"{folder.replace('/', '.')}.{path.stem}")
for name in OTHERS:
    importlib.import_module(name)
compose("train", [])
gc.collect()
gc.freeze()  # so that a collection in a fork does not write to, and copy, the memory that it shares with the server
