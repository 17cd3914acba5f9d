"""The main job in one process: what it generates, what it reuses, and what decides it."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from image_longitudinal.cli.describe import describe_dataset
from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ModelError, StorageError
from image_longitudinal.flows.fit_table import fit_table
from image_longitudinal.flows.generate_dataset import generate_dataset
from image_longitudinal.flows.verify_dataset import verify
from image_longitudinal.storage.dataset.images import encode_shard
from image_longitudinal.storage.dataset.layout import image_shard_path, table_path
from image_longitudinal.storage.dataset.reader import Dataset, open_dataset
from image_longitudinal.storage.dataset.verify import verify_dataset
from image_longitudinal.storage.io.lease import hold_lease
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.tasks.evaluation.checks import check_is_evaluable
from image_longitudinal.tasks.population.export import export_nmtran
from image_longitudinal.tasks.population.options import FitOptions
from image_longitudinal.tasks.reports.dataset_figures import subject_figure
from image_longitudinal.tasks.reports.pictures import rendered
from image_longitudinal.tasks.shards.derivation import rederive
from image_longitudinal.tasks.shards.specs import DatasetSpec
from image_longitudinal.tasks.workspace import Workspace
from tests.e2e.conftest import cli_arguments, cli_environment, digests
from tests.storage.dataset.test_verify import forge, rewrite, with_column

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def first(
    tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Config], workspace: str, prefect_server: None
) -> Path:
    """A data set made by models trained on the spot."""
    output = tmp_path_factory.mktemp("first") / "data"
    generate_dataset(str(output), config=tiny(), workspace=workspace)
    return output


def inodes(folder: Path, pattern: str) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_ino for path in folder.glob(pattern) if path.is_file()}


def test_a_published_data_set_is_complete_and_verifies(first: Path) -> None:
    assert verify(str(first)).ok
    dataset = open_dataset(first)
    assert len(dataset) == 60
    assert dataset.levels == (1.0, 0.5, 0.1, 0.0526, 0.02)
    assert dataset.manifest.splits == {"train": 48, "validation": 6, "test": 6}
    page = (first / "report.html").read_text()
    found = [page.count(f"data:{kind};base64,") for kind in ("image/svg+xml", "text/csv", "image/png", "image/gif")]
    assert found == [7, 5, 2, 1], "figures, the numbers of those that have some, mosaics, denoising"
    assert "http-equiv" not in page
    assert "<script" not in page
    assert {path.name for path in first.iterdir()} >= {"README.md", "croissant.json", "dataset.json", "images.zarr"}


@pytest.mark.operations
def test_killed_three_times_elsewhere_and_finished_it_gives_the_same_bytes(
    first: Path, workspace: str, tmp_path: Path, tiny_file: Path
) -> None:
    """kill -9 to the command line with its own server; the two runs share nothing."""
    chosen = random.Random(os.environ.get("KILL_SEED", "2410.16177"))
    in_all = count_files(first, Path(workspace))
    killed = 0
    for files in sorted(chosen.sample(range(1, in_all), 3)):  # later attempts start from what earlier ones left
        process = generate_in(tmp_path, tiny_file)
        while process.poll() is None and count_files(tmp_path / "data", tmp_path / "workspace") < files:
            time.sleep(0.05)
        time.sleep(chosen.uniform(0, 0.5))  # not just as a file was finished
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
        assert not (tmp_path / "data" / "dataset.json").exists() or digests(tmp_path / "data") == digests(first)
    assert killed, "every attempt finished before its moment came"
    assert generate_in(tmp_path, tiny_file).wait(600) == 0
    assert digests(tmp_path / "data") == digests(first)


def count_files(*folders: Path) -> int:
    return sum(path.is_file() for folder in folders for path in folder.rglob("*"))


def generate_in(home: Path, tiny_file: Path) -> subprocess.Popen[bytes]:
    with open(home / "log.txt", "ab") as log:
        return subprocess.Popen(
            cli_arguments("generate", "--config", tiny_file, "--output", "data"),
            env=cli_environment(home), cwd=home, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def test_outcomes_follow_the_linked_entries_at_level_one(first: Path) -> None:
    dataset = open_dataset(first)
    latents = dataset.latents[:]
    linked = np.stack([dataset.subjects()[f"eta_{k}"].to_numpy() for k in (1, 2, 3)], 1)
    np.testing.assert_array_equal(linked, latents[:, list(dataset.manifest.eta_latents or ())].astype(float))
    effects = dataset.random_effects(1.0)
    np.testing.assert_array_equal(np.stack([effects[f"eta_{k}"].to_numpy() for k in (1, 2, 3)], 1), linked)
    np.testing.assert_allclose(effects["imax"].to_numpy(), 2.1 * np.exp(linked[:, 1]), rtol=1e-12)


def test_the_same_command_again_changes_no_file(first: Path, tiny: Callable[..., Config], workspace: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()}
    generate_dataset(str(first), config=tiny(), workspace=workspace)
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()} == before


@pytest.fixture
def unwritable(first: Path, tmp_path: Path) -> Iterator[Path]:
    """The data set where nobody may write: a read-only mount for root, whom permissions do not stop."""
    if os.geteuid():
        first.chmod(0o555)
        yield first
        first.chmod(0o755)
        return
    folder = tmp_path / "read-only"
    folder.mkdir()
    try:
        subprocess.run(["mount", "--bind", first, folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no read-only file system can be had here: {error}")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True, capture_output=True)
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_finished_data_set_is_of_full_use_where_nobody_may_write(
    unwritable: Path, tiny: Callable[..., Config], workspace: str
) -> None:
    with pytest.raises(OSError, match=r"Read-only|Permission"):
        (unwritable / "new").touch()
    assert generate_dataset(str(unwritable), config=tiny(), workspace=workspace) == str(unwritable)
    assert verify(str(unwritable), workspace=workspace).ok
    assert "60 subjects" in describe_dataset(open_dataset(unwritable))
    assert rendered(subject_figure(open_dataset(unwritable), 3)).startswith(b"\x89PNG")
    with pytest.raises(StorageError, match=r"cannot lock the output.*[Cc]hoose an output"):
        generate_dataset(str(unwritable), config=tiny(), workspace=workspace, refresh=True)


def test_a_repair_that_would_make_another_data_set_touches_nothing(
    first: Path, tmp_path: Path, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(first, copy)
    (copy / image_shard_path(1)).write_bytes(b"damaged")
    before = digests(copy)
    monkeypatch.setattr(DatasetSpec, "code_version", 1_000)
    with pytest.raises(StorageError, match=r"another data set.*nothing was changed"):
        verify(str(copy), repair=True, workspace=workspace)
    assert digests(copy) == before


def test_a_second_run_on_one_output_is_refused_before_any_work(
    tmp_path: Path, tiny: Callable[..., Config], workspace: str
) -> None:
    root = open_root(tmp_path / "data")
    with hold_lease(root), pytest.raises(StorageError, match="another run is writing to this output"):
        generate_dataset(root.url, config=tiny("seed=3"), workspace=workspace)
    assert root.files() == []


def test_visits_that_move_are_missed_or_end_and_infusions(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    config = tiny(
        "generator.backend=phantom", "generator.image_size=32", "dataset.n_subjects=40", "dataset.shard_size=16",
        "outcomes.jitter=0.2", "outcomes.missed=0.1", "outcomes.dropout=0.3", "outcomes.doses=[{rate: 2}, {time: 5}]",
        f"outcomes.model={own_model(tmp_path)}",
    )  # fmt: skip
    url = generate_dataset(str(tmp_path / "data"), config=config, workspace=str(tmp_path / "ws"))
    dataset = open_dataset(url)
    assert verify_dataset(open_root(url)).ok
    assert rederive(dataset, np.arange(0, 40, 7), str(tmp_path / "ws")) == ([], None)
    rows = dataset.observations(1.0).to_pandas()
    seen, doses = rows[rows.evid == 0], rows[rows.evid == 1]
    planned = np.tile(config.outcomes.times, 40)
    assert 0.1 < np.abs(seen.time - planned).max() <= 0.2
    assert 0.1 < seen.mdv.mean() < 0.6
    assert (seen.dv.isna() == (seen.mdv == 1)).all()
    assert seen.groupby("id").mdv.first().eq(0).all()
    assert set(zip(doses.time, doses.rate, strict=True)) == {(0.0, 2.0), (5.0, 0.0)}
    other = dataset.observations(0.5).to_pandas()
    assert (other.time == rows.time).all()  # a subject comes when it comes, whatever the association
    assert (other.mdv == rows.mdv).all()
    export_nmtran(dataset, tmp_path / "rows.csv", level=1.0)
    assert (tmp_path / "rows.csv").read_text().startswith("ID,TIME,EVID,AMT,RATE,CMT,DV,MDV\n0,0,1,1,2,1,.,1\n")
    options = FitOptions(
        table=url, model=config.outcomes.model, method="foce", level=1.0, fixed=("ka", "imax", "ic50", "omega")
    )
    assert fit_table(options, str(tmp_path / "fit")).observations == (seen.mdv == 0).sum()
    with pytest.raises(StorageError, match=r"differ between subjects.*jitter 0\.2"):
        check_is_evaluable(dataset, config.evaluation)


def own_model(folder: Path) -> str:
    """A file with the original's model under another name."""
    (folder / "mine.py").write_text(
        "from dataclasses import replace\nfrom image_longitudinal.models.nlme.library import get_model, register\n"
        "register(replace(get_model('depot-central-mm'), name='mine-of-e2e'))\n"
    )
    return f"{folder}/mine.py:mine-of-e2e"


def test_new_association_levels_make_no_image_again(
    first: Path, tmp_path: Path, tiny: Callable[..., Config], workspace: str
) -> None:
    generate_dataset(str(tmp_path / "other"), config=tiny("dataset.association=[0.7]"), workspace=workspace)
    shards = "images.zarr/*/c/**/*"
    assert inodes(tmp_path / "other", shards) == inodes(first, shards) != {}
    assert open_dataset(tmp_path / "other").levels == (0.7,)
    assert verify(str(tmp_path / "other")).ok


def test_new_solver_steps_keep_the_outcomes(
    first: Path, tmp_path: Path, tiny: Callable[..., Config], workspace: str
) -> None:
    generate_dataset(str(tmp_path / "other"), config=tiny("generator.steps=3"), workspace=workspace)
    tables = "observations/**/*.parquet"
    assert inodes(tmp_path / "other", tables) == inodes(first, tables) != {}
    old, new = open_dataset(first).images[0:60], open_dataset(tmp_path / "other").images[0:60]
    assert not np.array_equal(old, new)


def everything(dataset: Dataset) -> dict[str, pa.Table | np.ndarray]:
    """Latents and all tables in id order, without the columns that name a file."""
    tables = {"subjects": dataset.subjects().arrow.drop_columns(["shard"])}
    for level in dataset.levels:
        tables[f"effects {level}"] = dataset.random_effects(level).arrow
        tables[f"observations {level}"] = dataset.observations(level).arrow
    return {name: table.combine_chunks() for name, table in tables.items()}


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["dataset.shard_size=60"], id="one shard"),
        pytest.param(["dataset.shard_size=6", "compute.concurrent_shards=4"], id="ten shards, four at a time"),
        pytest.param(["dataset.shard_size=30", "compute.render_processes=2"], id="two processes"),
        pytest.param(["generator.batch_size=1"], id="batch of 1"),
    ],
)
def test_no_division_of_the_work_changes_a_subject(
    overrides: list[str], first: Path, tmp_path: Path, tiny: Callable[..., Config], workspace: str
) -> None:
    generate_dataset(str(tmp_path / "other"), config=tiny(*overrides), workspace=workspace)
    one, other = open_dataset(first), open_dataset(tmp_path / "other")
    np.testing.assert_array_equal(one.latents[0:60], other.latents[0:60])
    for (name, left), right in zip(everything(one).items(), everything(other).values(), strict=True):
        assert left.equals(right), name
    old, new = one.images[0:60].astype(int), other.images[0:60].astype(int)
    if any("batch_size" in override for override in overrides):
        assert np.abs(old - new).max() <= 1  # another batch size rounds differently on the device
    else:
        np.testing.assert_array_equal(old, new)


def test_a_vae_alone_generates_a_data_set(tmp_path: Path, tiny: Callable[..., Config], workspace: str) -> None:
    generate_dataset(str(tmp_path / "data"), config=tiny("generator.backend=vae"), workspace=workspace)
    assert verify(str(tmp_path / "data")).ok
    assert open_dataset(tmp_path / "data").images[0:60].std() > 10


@pytest.mark.operations
def test_a_privately_trained_vae_generates_a_data_set(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    private = ("vae.dp={epsilon: 8.0}", "vae.cycle_weight=0", "vae.mixed_precision=no", "images.validation_fraction=0")
    work = Workspace.at(tmp_path / "work")
    config = tiny("generator.backend=vae", *private)
    generate_dataset(str(tmp_path / "data"), config=config, workspace=str(work.root))
    assert verify(str(tmp_path / "data")).ok
    assert "ε" in work.registry.get(open_dataset(tmp_path / "data").manifest.image.model).card


@pytest.mark.operations
def test_a_model_is_measured_again_by_another_probe(first: Path, tiny: Callable[..., Config], workspace: str) -> None:
    from image_longitudinal.flows.remeasure_model import measure_model
    from image_longitudinal.tasks.reports.model_table import model_report, model_table

    base = Workspace.at(workspace).registry.get(open_dataset(first).manifest.image.model)
    config = tiny("probe.reader=network", "probe.reader_images=128", "probe.reader_steps=5")
    version = measure_model(base.version, config=config, workspace=workspace)
    assert version.version != base.version
    for network in ("vae.safetensors", "diffusion.safetensors"):
        assert version.files[network] == base.files[network], "the same networks"
    assert (version.metadata.measured.read_by, base.metadata.measured.read_by) == ("network", "encoder")
    assert version.metadata.training == base.metadata.training
    judgement = version.metadata.measured.judgement
    assert judgement is not None
    assert (judgement.judge.name, judgement.pathology) == ("vgg16", None)
    rows = model_table(model_report(version, config))
    assert {"outside judge, floors", "RPE roughness, ratio", "images per second, on this machine"} < {
        r[0] for r in rows
    }
    card = (version.folder / "README.md").read_text()
    assert "a network trained for it, apart from the generator, on 128 other generated images (5 batches of 64)" in card
    assert measure_model(base.version, config=config, workspace=workspace).version == version.version
    again = measure_model(base.version, config=tiny(), workspace=workspace)
    assert again.metadata.measured == base.metadata.measured, "the probe that measured it first finds the same"
    with pytest.raises(ModelError, match=r"not the images that were held out .*the preset and seed that split them"):
        measure_model(base.version, config=tiny("images.test_fraction=0.3"), workspace=workspace)


def test_damage_and_wrong_content_under_right_hashes_are_found_and_repaired_and_nothing_else_is_written(
    first: Path, tmp_path: Path, workspace: str
) -> None:
    output = tmp_path / "data"
    shutil.copytree(first, output)
    root, ids = open_root(output), np.arange(60)
    assert rederive(open_dataset(root), ids, workspace) == ([], None)
    problems, why = rederive(open_dataset(root), ids[:2], str(tmp_path / "elsewhere"))
    assert problems == []
    assert "not available" in str(why)

    table = table_path("random_effects", 1, "train", 0.5)
    eta = open_dataset(root).used_eta(0.5)[16:32][:, 1]
    rewrite(root, table, with_column("eta_2", (eta + 0.01).tolist()), index=1)
    image, (height, width) = image_shard_path(2), open_dataset(root).images[0:1].shape[1:]
    pieces = encode_shard([np.zeros((16, height, width), np.uint8)], shard_rows=16)
    forge(root, 2, image, root.write(image, pieces, rows=16))
    assert verify_dataset(root).ok
    found, _ = rederive(open_dataset(root), ids, workspace)
    assert {problem.path for problem in found} == {table, image}
    assert {problem.shard for problem in found} == {1, 2}
    flipped = output / image_shard_path(3)
    content = bytearray(flipped.read_bytes())
    content[100] ^= 1
    flipped.write_bytes(content)
    with pytest.raises(StorageError, match=image_shard_path(3)):
        verify(str(output), workspace=workspace, sample=0)
    intact = inodes(output, "images.zarr/*/c/0/**/*")
    assert verify(str(output), repair=True, workspace=workspace, sample=60).regenerated == tuple(range(60))
    assert digests(output) == digests(first)
    assert inodes(output, "images.zarr/*/c/0/**/*") == intact


def test_a_damaged_root_manifest_is_restored(first: Path, tmp_path: Path, workspace: str) -> None:
    output = tmp_path / "data"
    shutil.copytree(first, output)
    manifest = output / "dataset.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"seed"', b'"sead"'))
    with pytest.raises(StorageError, match=r"a manifest is damaged.*dataset\.json"):
        verify(str(output), workspace=workspace)
    assert verify(str(output), repair=True, workspace=workspace).ok
    assert digests(output) == digests(first)
