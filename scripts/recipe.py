"""From a corpus and texts to a recogniser: python scripts/recipe.py --data FOLDER --texts FOLDER [--encoder conformer] [--quick]

    python scripts/recipe.py --data /corpora/librispeech-8k --texts /corpora/texts          # hours; make model is the same
    python scripts/recipe.py --data /corpora/librispeech-8k --texts /corpora/texts --quick  # a try of every step, in minutes

--data is a folder with train.tsv and test.tsv (columns path, utt, speaker, text), --texts one of .txt files with a sentence a line.
Phrases of the texts are spoken by a synthesiser; a model of those cuts the corpus at its pauses; training goes on with the pieces; a
language model, word errors of three searches and an export with its model card follow. Every step is one command of the project,
which is printed. A step whose result is there is left out: stopped by whatever, the same command goes on. --encoder is conformer
(characters) or lstm (word pieces); --name names the runs in exp/ and the folder in data/.
"""

import sys
from pathlib import Path


def main(arguments: "list[str]") -> None:
    """Make what is not there yet, one step after the other."""
    from scripts.composition.recipe import make, recipe_options

    options = recipe_options(arguments, __doc__ or "")
    if options is not None:
        make(options)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from scripts.composition.startup import require_environment, run_main

    require_environment()
    run_main(main)
