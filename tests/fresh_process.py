"""What published models say in a process that knows nothing of this project."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tweet_files import TASK

from smm4h.data.dataset import read_tweets

CLASSIFY = """
import json, sys
from transformers import pipeline
texts, outputs = json.load(open("texts.json")), []
for name in sys.argv[1:]:
    outputs.append(pipeline("text-classification", name, trust_remote_code=True)(texts, truncation=True))
assert not [module for module in sys.modules if module.startswith("smm4h")]
json.dump(outputs, open("outputs.json", "w"))
"""


def labels_in_a_fresh_process(
    names: Sequence, tweets: Path, folder: Path, env: dict[str, str] | None = None
) -> list[list[str]]:
    """Return the labels that each of some models gives a file's tweets, in a process in a new folder."""
    folder.mkdir()
    texts = list(read_tweets([tweets], TASK, labelled=False)[0]["text"])
    (folder / "texts.json").write_text(json.dumps(texts))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(folder / "home"), **(env or {})}
    command = [sys.executable, "-I", "-c", CLASSIFY, *map(str, names)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = json.loads((folder / "outputs.json").read_text())
    return [[output["label"] for output in of_model] for of_model in outputs]
