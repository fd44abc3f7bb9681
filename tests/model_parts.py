"""What stands beside the weights of checkpoints that are never built: nothing but a resume reads them."""

from asr.data.tokenizer import CharacterTokenizer
from asr.parts import plain
from asr.runs.model_folder import Description, ModelParts
from scripts.composition.compose import compose

_TOKENIZER = CharacterTokenizer(alphabet=" ab", case="lower")
NO_MODEL = ModelParts(
    Description(
        model=plain(compose("train_lm", []).model) | {"vocabulary_size": _TOKENIZER.vocabulary_size},
        features=None,
        tokenizer=_TOKENIZER.fingerprint,
    ),
    _TOKENIZER,
)
