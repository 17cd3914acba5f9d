"""Models trained by us on public scans and shipped with the code: what ``--model pretrained`` and others name."""

from pathlib import Path

PRETRAINED = "pretrained"  # 64x64
PRETRAINED_128 = "pretrained-128"
BUNDLED = {
    PRETRAINED: Path(__file__).parent / "oct-64",
    PRETRAINED_128: Path(__file__).parent / "oct-128",
}
