"""A small model trained by us on public scans, shipped with the code: what `--model pretrained` names."""

from pathlib import Path

PRETRAINED = "pretrained"
FOLDER = Path(__file__).parent / "oct-64"
