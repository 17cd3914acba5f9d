"""Every file that is kept is written by ``core.files``; who else opens one for writing is listed with the reason."""

import ast
from pathlib import Path

from tests.paths import ROOT

ROOMS = ("core", "storage", "models", "tasks", "flows", "deployments", "image_longitudinal")
WRITERS = {"write_text", "write_bytes", "save", "save_file", "save_pretrained", "to_netcdf", "to_zarr", "write_table",
           "ParquetWriter", "CSVWriter", "copyfileobj", "savefig"}  # fmt: skip
KNOWN = {
    "core/files.py": "the one way to write",
    "deployments/lock.py": "lock files, which git keeps",
    "models/training/tensor_files.py": "safetensors, inside replacing()",
    "models/nlme/estimation/results.py": "netCDF inside replacing(), Zarr inside temporary_folder()",
    "models/nlme/estimation/ebes.py": "Parquet inside replacing()",
    "models/nlme/data/nmtran_writer.py": "tables inside replacing()",
    "models/nlme/kernels/cached.py": "numba's files inside replacing()",
    "models/registry/exchange.py": "a temporary folder, copied with put_file()",
    "storage/dataset/predictions.py": "Parquet inside replacing()",
    "storage/dataset/tables.py": "Parquet to memory, then Root.write_bytes()",
    "storage/scans/prepared_writer.py": "inside temporary_folder()",
    "storage/scans/frame_cache.py": "PNG inside replacing()",
    "storage/scans/sources.py": "inside temporary_folder()",
    "tasks/evaluation/run.py": "arrays inside replacing()",
    "tasks/population/images.py": "tables inside replacing(); Predictor.save(), which is save_tensors()",
    "tasks/population/intervals.py": "Parquet inside replacing()",
    "tasks/exports/hugging_face.py": "Parquet to memory, then Root.write_bytes()",
    "tasks/ingest/review.py": "PNG inside replacing()",
    "tasks/reports/pictures.py": "pictures to memory",
    "tasks/reports/model_figures.py": "pictures to memory",
    "models/training/checkpoints.py": "TrainingState.save(), which is save_tensors()",
    "models/training/loop.py": "TrainingState.save()",
    "deployments/alerts.py": "a block of the server, no file",
    "flows/retrain_models.py": "FolderRecord.save(), which is LocalRoot.write_bytes()",
}


def writes(call: ast.Call) -> bool:
    """Whether a call writes a file; a root's own ``write_bytes`` and ``write_table`` take the path and the data."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name in ("open", "fdopen"):
        modes = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
        return any(isinstance(mode, ast.Constant) and set(str(mode.value)) & set("wax+") for mode in modes)
    if name in ("write_bytes", "write_table") and len(call.args) > 1 and not isinstance(call.args[1], ast.Name):
        return False
    return name in WRITERS and not (name == "write_bytes" and len(call.args) > 1)


def test_everything_is_written_durably_or_listed() -> None:
    found = {
        str(file.relative_to(ROOT))
        for room in ROOMS
        for file in (ROOT / room).rglob("*.py")
        if not any(part.is_symlink() for part in file.parents)
        and any(
            writes(node) for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
        )
    }
    assert found - set(KNOWN) == set(), "write with core.files, or say why not"
    assert all((ROOT / Path(name)).exists() for name in KNOWN)
