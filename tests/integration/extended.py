"""What test_extend.py runs in a copy of the project that has the files of docs/extend.md: they work together in one run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any


def test_they_train_compress_and_evaluate_together(launcher: Any, small_overrides: Any, tiny_corpus: Path) -> None:
    for split in ("train", "dev"):
        rows = [json.loads(line) for line in (tiny_corpus / f"{split}.jsonl").read_text().splitlines()]
        table = "".join(f"{tiny_corpus / row['audio_filepath']},{row['speaker']},{row['text']}\n" for row in rows)
        (launcher.folder / f"{split}.csv").write_text(table)
    root = launcher.folder
    data = ("data=comma_tables", f"data.root={root}", f"data.cache={root / 'manifests'}", "data.test=[]")
    kept = [each for each in small_overrides() if not each.startswith("data")]
    launcher = replace(launcher, small=lambda *overrides: [*kept, *data, *overrides])
    chosen = ("backend=local_sgd", "backend.period=2", "hooks=[activation_penalty]", "trainer.max_steps=3", "name=all")
    assert "2 learners, 40 utterances" in launcher.train(2, *chosen)
    assert '"train/activation_penalty"' in (root / "exp" / "all" / "metrics" / "0.jsonl").read_text()
    made = launcher.script("compress", "run=exp/all", "pass=factorise", "pass.rank=4")
    assert made.returncode == 0, made.stderr
    assert "factorise of" in made.stdout + made.stderr
    evaluated = launcher.script("evaluate", "run=exp/all", "weights=exp/all/export/factorise", "sets=[dev]")
    assert evaluated.returncode == 0, evaluated.stderr
    assert (root / "exp" / "all" / "export" / "factorise" / "eval" / "dev" / "wer-greedy.json").is_file()
