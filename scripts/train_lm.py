"""Train a language model over a recogniser's tokens: python scripts/train_lm.py [key=value ...], or under torchrun.

    torchrun --standalone --nproc-per-node 2 scripts/train_lm.py name=lm data=synthetic texts=[more.txt]

The trainer, its backends, checkpoints and folders are those of scripts/train.py; the model reads the transcripts of the
training set (transcripts=true), text files (texts=[...]), or both, and is judged by its perplexity on dev.
"""

from scripts.train import run_and_leave, train


def main(arguments: list[str]) -> None:
    """Train a language model."""
    train("train_lm", arguments, __doc__ or "")


if __name__ == "__main__":
    run_and_leave(main)
