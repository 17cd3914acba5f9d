"""Completion in bash, zsh and fish: commands, presets, keys and values of --set, models of the workspace."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = [
    sys.executable,
    "-c",
    "from image_longitudinal.cli.app import main; import sys; sys.argv[0] = 'image-longitudinal'; main()",
]


def completed(words: str, folder: Path, shell: str = "bash") -> list[str]:
    """What a shell offers for the last of the words, one text each."""
    parts = words.split(" ")
    variables = {
        "_IMAGE_LONGITUDINAL_COMPLETE": f"complete_{shell}", "COMP_WORDS": words, "COMP_CWORD": str(len(parts) - 1),
        "_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }  # fmt: skip
    done = subprocess.run(
        PROGRAM, env={**os.environ, **variables}, cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.split("\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_offered_commands_and_presets(shell: str, tmp_path: Path) -> None:
    assert any("simulate" in one for one in completed("image-longitudinal sim", tmp_path, shell))
    offered = " ".join(completed("image-longitudinal train --preset s", tmp_path, shell))
    for name in ("scans", "scans-128", "small"):
        assert name in offered
    assert "demo" not in offered


def test_keys_of_set_and_their_values_are_offered(tmp_path: Path) -> None:
    offered = completed("image-longitudinal train --set dataset.n", tmp_path)
    assert {"dataset.name=", "dataset.n_subjects="} <= {*offered}
    assert "dataset.shard_size=" not in offered
    assert "images.denoise=nlm" in completed("image-longitudinal train --set images.denoise=", tmp_path)


def test_models_of_the_workspace_are_offered(tmp_path: Path) -> None:
    models = tmp_path / "mine" / "models"
    (models / "0123456789ab").mkdir(parents=True)
    (models / "0123456789ab" / "model.json").write_text("{}")
    (models / "aliases.json").write_text(json.dumps({"production": "0123456789ab"}))
    words = "image-longitudinal generate --workspace mine --model "
    assert {"0123456789ab", "production", "pretrained"} <= {*completed(words, tmp_path)}
    assert "production" in completed("image-longitudinal models show --workspace mine pro", tmp_path)
    assert "pretrained" in completed("image-longitudinal generate --workspace none --model p", tmp_path)


def test_a_completion_imports_nothing_slow(tmp_path: Path) -> None:
    code = (
        "import sys; from image_longitudinal.cli.completion import complete_keys, complete_models, complete_presets;"
        "import typer; complete_keys(''); complete_presets(''); "
        "print(*{'torch', 'prefect', 'pymc', 'pyarrow', 'zarr', 'numpy'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == ""
