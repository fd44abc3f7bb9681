"""What stands beside the weights of checkpoints that are never built: nothing but a resume reads them."""

from asr.data.tokenizer import CharacterTokenizer
from asr.runs.model_folder import Description, ModelParts

_TOKENIZER = CharacterTokenizer(alphabet=" ab", case="lower")
NO_MODEL = ModelParts(
    Description(
        model={"_target_": "asr.models.transducer.transducer"}, features=None, tokenizer=_TOKENIZER.fingerprint
    ),
    _TOKENIZER,
)
