"""Whether the texts of a run are such as the model that it starts from has been trained on."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig

from asr.parts import build
from asr.runs.run_folder import RunFolder
from distributed.errors import UserError
from scripts.composition.build import training_texts
from scripts.composition.checkup.finding import Finding, ok, warning
from scripts.composition.run_configuration import load_run_config
from scripts.composition.settings import TrainSettings

MANY_UNHEARD = 0.3  # share of running words above which texts are of another domain, or another language
WORDS_SHOWN = 5


def compare_words(config: DictConfig, texts: Sequence[str]) -> Iterator[Finding]:
    """The share of words that the model of ``init_from`` was not trained on, where that run's corpus can be read."""
    if config.init_from is None:
        return
    folder, what = Path(config.init_from), f"init_from={config.init_from}"
    if not RunFolder(folder).config.is_file():
        yield ok("domain", f"{what} is no run folder: which words its model was trained on cannot be seen")
        return
    try:
        earlier = load_run_config(folder, TrainSettings, "init_from")
        corpus = build(earlier.data)
        corpus.writable = (Path(), Path("data"), folder)  # as the run may come from anywhere; data is often a link
        heard = training_texts(corpus)
    except (UserError, OSError) as unreadable:
        yield ok("domain", f"{what}: its training texts cannot be read for a comparison ({unreadable})")
        return
    share, examples = unheard_words(texts, heard)
    line = f"{share:.0%} of the words are none that {what} was trained on"
    if share > MANY_UNHEARD:
        yield warning(
            "domain", f"{line} ({', '.join(examples)}): another domain or language wants more speech to adapt to"
        )
    else:
        yield ok("domain", line)


def unheard_words(texts: Sequence[str], heard: Sequence[str]) -> tuple[float, list[str]]:
    """Share of the running words of ``texts`` that no text of ``heard`` has, and the most frequent of them."""
    known = {word for text in heard for word in text.casefold().split()}
    words = Counter(word for text in texts for word in text.casefold().split())
    unheard = Counter({word: count for word, count in words.items() if word not in known})
    return unheard.total() / max(1, words.total()), [word for word, _ in unheard.most_common(WORDS_SHOWN)]
