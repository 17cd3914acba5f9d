"""Reading a published data set: arrays and tables by index, level and split, one subject at a time, SQL, PyTorch.

Random effects exist twice, and no name stands for both: ``linked_eta`` are linked to the image, ``used_eta`` are those
that the outcomes of a level were made from (:attr:`Dataset.linked_eta`).
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import naming_missing_extra
from image_longitudinal.core.secrets import revealed
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.arrow_table import ArrowTable
from image_longitudinal.storage.dataset.manifest import RootManifest, read_root_manifest
from image_longitudinal.storage.dataset.predictions import write_submission
from image_longitudinal.storage.dataset.rows import Rows, TableSource
from image_longitudinal.storage.dataset.sharded_array import ShardedArray, image_spec, latent_spec
from image_longitudinal.storage.dataset.subject import Subject
from image_longitudinal.storage.dataset.table_reader import TableReader, check_is_one_of, chosen_splits, table_errors
from image_longitudinal.storage.dataset.tables import observation_pattern
from image_longitudinal.storage.dataset.view import View
from image_longitudinal.storage.dataset.zarr_metadata import check_metadata
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import Root

if TYPE_CHECKING:
    import pyarrow.dataset as pads

    from image_longitudinal.storage.dataset.loaders import SubjectLoader


class Dataset:
    """A published data set, opened by :func:`open_dataset`: only the root manifest has been read.

    Safe to use from many threads; pickles as its address.
    """

    def __init__(self, root: Root, manifest: RootManifest) -> None:
        self.root, self.manifest = root, manifest
        self.plan = manifest.plan
        image, n, size, present = manifest.image, self.plan.n_subjects, manifest.shard_size, self.plan.only_shards
        self._images = ShardedArray(root, image_spec(image.height, image.width, size), n, present)
        self._latents = ShardedArray(root, latent_spec(image.latent_dim, size), n, present)
        self._tables = TableReader(root, manifest)
        self._eta_columns = layout.eta_columns(len(manifest.random_effects))

    def __len__(self) -> int:
        return self.manifest.n_subjects

    def __repr__(self) -> str:
        return f"Dataset({self.root.url!r}, {len(self)} subjects, levels {list(self.levels)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return open_dataset, (revealed(self.root.url), self.root.options or None)

    def _repr_html_(self) -> str:
        from image_longitudinal.storage.dataset.notebook import dataset_html

        return dataset_html(self)

    def __getitem__(self, subject_id: int) -> Subject:
        """``data[17]``: everything about one subject, by its id (:meth:`subject`).

        Example:
            >>> data[17].image.shape
            (64, 64)
        """
        return self.subject(subject_id)

    def __iter__(self) -> Iterator[Subject]:
        """The subjects, by id."""
        return (self.subject(subject_id) for run in self.runs() for subject_id in range(*run))

    @property
    def levels(self) -> tuple[float, ...]:
        """The association levels.

        Example:
            >>> max(data.levels)
            1.0
        """
        return self.manifest.levels

    @property
    def times(self) -> tuple[float, ...]:
        """The planned observation times, ascending: what the last dimension of :meth:`outcomes` is.

        Example:
            >>> data.times[:3]
            (0.0, 0.5, 1.0)
        """
        return self.manifest.times

    @property
    def images(self) -> Rows:
        """Images by subject id, uint8 (N, H, W): ``data.images[0:64]``, ``data.images[[5, 3]]`` (:class:`Rows`).

        Example:
            >>> data.images[0:64].shape, data.images[0:64, ::2, ::2].shape
            ((64, 64, 64), (64, 32, 32))
        """
        return Rows("images", self._images)

    @property
    def latents(self) -> Rows:
        """Latents by subject id, float32 (N, D).

        Example:
            >>> data.latents[[5, 3]].shape
            (2, 16)
        """
        return Rows("latents", self._latents)

    @property
    def linked_eta(self) -> Rows:
        """Random effects linked to the image, by subject id: float64 (N, k); the table ``subjects`` has them.

        They are what an image shows, whatever the level. No outcome is made from them, but from :meth:`used_eta`: at
        level ρ² those are ρ · linked + √(1 - ρ²) · noise. A model of outcomes that is given linked ones is wrong below
        level 1.

        Example:
            >>> data.linked_eta[:].shape
            (640, 3)
        """
        return self._of_table("linked_eta", "subjects", None)

    def used_eta(self, level: float) -> Rows:
        """Random effects that the outcomes of one level were made from, by subject id: float64 (N, k).

        The table ``random_effects`` has them. They are what is predicted and scored.

        Example:
            >>> used = data.used_eta(0.5)[:]
            >>> bool((data.used_eta(1.0)[:] == data.linked_eta[:]).all())
            True
        """
        return self._of_table("used_eta", "random_effects", self._known(level))

    def outcomes(self, level: float) -> Rows:
        """Outcomes of one level at :attr:`times`, by subject id: float32 (N, T); NaN at a missed visit.

        Example:
            >>> data.outcomes(0.5)[0:64].shape
            (64, 21)
        """
        shape = (self.plan.n_subjects, len(self.times))
        read = partial(self._read_outcomes, self._known(level))
        return Rows("outcomes", TableSource(shape, np.dtype(np.float32), read, self._all_runs))

    def view(
        self, split: str | None = None, level: float | None = None, *, arm: str | None = None, site: str | None = None
    ) -> View:
        """The subjects of one split (None: all) at one association level (None: images and latents only).

        ``arm``, ``site``: of a study design, only those in this arm and at this site.

        Raises:
            StorageError: the data set has no such split, level, arm or site.

        Example:
            >>> test = data.view("test", 0.5)
            >>> test.images[:].shape, test.outcomes[:].shape, test.ids[:2]
            ((64, 64, 64), (64, 21), array([576, 577]))
        """
        chosen_splits(self.manifest, split)
        if level is not None:
            check_is_one_of("association level", level, self.levels)
        if arm is not None:
            check_is_one_of("arm", arm, self.arms)
        if site is not None:
            check_is_one_of("site", site, self.sites)
        return View(self, split, level, arm, site)

    def runs(self, split: str | None = None) -> list[tuple[int, int]]:
        """The ids of one split, or of all subjects, as runs ``start <= id < stop`` within one shard, ascending.

        Example:
            >>> data.runs("test")
            [(576, 640)]
        """
        splits = chosen_splits(self.manifest, split)
        runs: list[tuple[int, int]] = []
        for shard in self.plan:
            for part in shard.splits:
                if part.split not in splits:
                    continue
                if runs and runs[-1][1] == part.start > shard.start:  # the next split of the same shard
                    runs[-1] = (runs[-1][0], part.stop)
                else:
                    runs.append((part.start, part.stop))
        return runs

    def subjects(self, split: str | None = None, columns: Sequence[str] | None = None) -> ArrowTable:
        """The subjects of one split, or of all, sorted by id within each split; ``eta_k`` are the linked ones.

        Example:
            >>> data.subjects("test", columns=["id", "eta_1"])
            <64 rows: id int64, eta_1 double>
        """
        return self.table("subjects", None, split, columns)

    def random_effects(
        self, level: float | None = None, split: str | None = None, columns: Sequence[str] | None = None
    ) -> ArrowTable:
        """The random effects used at one association level, or at all, sorted by id within each level and split.

        Example:
            >>> data.random_effects(level=0.5, split="test").to_pandas()["eta_1"].shape
            (64,)
        """
        return self.table("random_effects", level, split, columns)

    def observations(
        self, level: float | None = None, split: str | None = None, columns: Sequence[str] | None = None
    ) -> ArrowTable:
        """The observations of one association level, or of all, in memory, by id and time within each level and split.

        For more rows than memory holds, take batches of :meth:`scan`.

        Example:
            >>> rows = data.observations(level=0.5, split="test")
            >>> len(rows), rows["dv"].null_count  # a dose row of each subject has no dv
            (1408, 64)
        """
        return self.table("observations", level, split, columns)

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms, by number; empty without a study design that has some.

        Example:
            >>> data.arms  # datasets/demo has none
            ()
        """
        return self.manifest.study_columns.arms

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, by number; empty without a study design that has some.

        Example:
            >>> data.sites
            ()
        """
        return tuple(site.name for site in self.manifest.study.sites) if self.manifest.study else ()

    def truth(
        self, table: str, level: float | None = None, split: str | None = None, columns: Sequence[str] | None = None
    ) -> ArrowTable:
        """A table of what only a scorer may see: ``potential_outcomes``, ``effects`` or ``propensity`` (no level).

        Raises:
            StorageError: the data set has no such table.

        Example:
            >>> [name for name in data.manifest.tables if name.startswith("truth/")]  # none without arms
            []
        """
        return self.table(f"truth/{table}", level, split, columns)

    def table(
        self, table: str, level: float | None = None, split: str | None = None, columns: Sequence[str] | None = None
    ) -> ArrowTable:
        """A table in memory; arguments and errors as for :meth:`scan`.

        Example:
            >>> data.table("subjects", split="train").num_rows
            512
        """
        with table_errors("cannot read a table", self.root.join(table)):
            return ArrowTable(self.scan(table, level, split).to_table(columns=columns))

    def sql(self, statement: str) -> ArrowTable:
        """The rows of a SELECT by DuckDB from the tables ``subjects``, ``random_effects``, ``observations``.

        ``data.sql("select time, avg(dv) from observations where association = 0.5 and evid = 0 group by time")``.
        Tables in ``truth/`` are named ``truth_effects`` and the like.

        Raises:
            MissingExtraError: DuckDB is not installed.
            StorageError: DuckDB refuses the statement, or it gives no rows.

        Example:
            >>> data.sql("select count(distinct id) as n from observations where split = 'test'").to_pandas()
                n
            0  64
        """
        from image_longitudinal.storage.dataset.sql import query

        return query(self, statement)

    def to_xarray(self) -> Any:
        """Images and latents as a lazy xarray Dataset, one dask chunk for each shard; that of a split: ``view``.

        Example:
            >>> lazy = data.to_xarray()
            >>> lazy["image"].dims, lazy["image"].chunksizes["subject"]
            (('subject', 'y', 'x'), (128, 128, 128, 128, 128))
        """
        return self.view().to_xarray()

    def torch(self, **arguments: Any) -> SubjectLoader:
        """Batches for PyTorch: ``data.torch(split="train", fields=("image", "linked_eta"), batch_size=64)``.

        Arguments are those of :class:`storage.dataset.loaders.SubjectLoader`.

        Example:
            >>> loader = data.torch(split="train", level=0.5, fields=("image", "used_eta"), batch_size=64)
            >>> batch = next(iter(loader))
            >>> batch["image"].shape, batch["used_eta"].shape
            (torch.Size([64, 1, 64, 64]), torch.Size([64, 3]))
        """
        with naming_missing_extra():
            from image_longitudinal.storage.dataset.loaders import SubjectLoader
        return SubjectLoader(self, **arguments)

    def write_predictions(
        self,
        path: str | Path,
        *,
        used_eta: Mapping[float, ArrayLike] | None = None,
        outcomes: Mapping[float, ArrayLike] | None = None,
        individual_effects: Mapping[float, ArrayLike] | None = None,
        policy: Mapping[float, ArrayLike] | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Write predictions for the test subjects as the file that ``score`` reads: exactly one kind, by level.

        Rows are those of ``data.view("test")``, n of them, by id.

        Args:
            path: the Parquet file.
            used_eta: random effects (n, k), of those that the outcomes were made from (:meth:`used_eta`).
            outcomes: outcomes (n, T) at :attr:`times`.
            individual_effects: of a data set with A arms, effects of arms 1 to A - 1 against arm 0, (n, A - 1).
            policy: the arm that each subject should take, (n,).
            overwrite: replace a file that exists.

        Raises:
            StorageError: none or several kinds are given, a level is unknown, an array has another shape or numbers
                that are not finite, or the file exists.

        Example:
            >>> best = data.view("test").linked_eta[:] * 0.5**0.5  # what a perfect reader of images would say
            >>> path = data.write_predictions("mine.parquet", used_eta={0.5: best}, overwrite=True)
        """
        kinds = {"effects": used_eta, "outcomes": outcomes, "individual": individual_effects, "policy": policy}
        return write_submission(
            Path(path), {kind: levels for kind, levels in kinds.items() if levels is not None},
            ids=self.view("test").ids, levels=self.levels, n_eta=len(self._eta_columns), times=self.times,
            arms=len(self.arms), overwrite=overwrite,
        )  # fmt: skip

    def scan(self, table: str, level: float | None = None, split: str | None = None) -> pads.Dataset:
        """A table as a lazy pyarrow dataset: rows are read when batches, counts or a table are requested.

        The footer of every file is read and checked now, and kept.

        Args:
            table: subjects, random_effects or observations, or one of ``manifest.tables`` in ``truth/``.
            level: an association level of the data set; None for all levels, and for tables without.
            split: one split, or all.

        Raises:
            DamagedError: a file lacks a column, or holds other subjects.
            StorageError: the data set has no such table, level or split, or a file cannot be opened.

        Example:
            >>> lazy = data.scan("observations", level=0.5)
            >>> lazy.count_rows()
            14080
        """
        return self._tables.scan(table, level, split)

    def subject(self, subject_id: int) -> Subject:
        """Everything about one subject. IndexError for an id outside the data set.

        Example:
            >>> subject = data.subject(17)
            >>> subject.split, subject.image.shape, subject.used_eta[0.5].shape
            ('train', (64, 64), (3,))
        """
        subject_id = _subject_id(subject_id)
        rows = self._tables.subject_rows
        row = rows("subjects", None, subject_id)
        return Subject(
            id=subject_id,
            split=self.plan.split_of(subject_id),
            seed=row["seed"][0].as_py(),
            image=self.images[subject_id],
            latent=self.latents[subject_id],
            linked_eta=np.array([row[name][0].as_py() for name in self._eta_columns]),
            random_effects={level: rows("random_effects", level, subject_id) for level in self.levels},
            observations={level: rows("observations", level, subject_id) for level in self.levels},
        )

    def columns(
        self, table: str, level: float | None, start: int, stop: int, names: Sequence[str], rows: int = 1
    ) -> NDArray[np.float64]:
        """Number columns of subjects ``start <= id < stop``, ``rows`` of each: (rows · (stop - start), names)."""
        return self._tables.columns(table, level, start, stop, names, rows)

    def rows(self, table: str, level: float | None, subject_id: int) -> pa.Table:
        """The rows of one subject in a table. IndexError for an id outside the data set."""
        return self._tables.subject_rows(table, level, _subject_id(subject_id))

    def check_zarr_metadata(self) -> None:
        """StorageError unless the Zarr metadata describes the manifest's arrays; our own reader does not need it."""
        check_metadata(self.root, (self._images.spec, self._latents.spec), self.plan.n_subjects)

    def schema(self, table: str) -> pa.Schema:
        """The columns of a table, with units in the metadata of each field.

        Example:
            >>> data.schema("observations").field("time").metadata[b"unit"]
            b'h'
        """
        check_is_one_of("table", table, self.manifest.tables)
        return self.manifest.table_schema(table)

    @cached_property
    def _all_runs(self) -> list[tuple[int, int]]:
        return self.runs()

    def _known(self, level: float) -> float:
        check_is_one_of("association level", level, self.levels)
        return level

    def _of_table(self, name: str, table: str, level: float | None) -> Rows:
        """The random effects in a table."""
        columns = self._eta_columns
        read, shape = partial(self._tables.columns, table, level, names=columns), (self.plan.n_subjects, len(columns))
        return Rows(name, TableSource(shape, np.dtype(np.float64), read, self._all_runs))

    def _read_outcomes(self, level: float, start: int, stop: int) -> NDArray[np.float32]:
        pattern = observation_pattern(self.times, self.manifest.dose_slots.slots)
        dv = self._tables.columns("observations", level, start, stop, ("dv",), rows=len(pattern["evid"]))
        return dv.reshape(stop - start, len(pattern["evid"]))[:, pattern["evid"] == 0].astype(np.float32)


def open_dataset(url: str | Path | Root, storage_options: Mapping[str, Any] | None = None) -> Dataset:
    """Open a published data set at a local path or fsspec URL; reads only its root manifest.

    Args:
        url: the address.
        storage_options: of the driver of a store, such as ``{"anon": True}`` for a public bucket of S3.

    Raises:
        StorageError: nothing is published there, its layout version is unknown, or its manifest is damaged.

    Example:
        >>> data = il.open_dataset("datasets/demo")
        >>> len(data), data.levels
        (640, (1.0, 0.5, 0.1, 0.0526, 0.02))
    """
    root = url if isinstance(url, Root) else open_root(url, storage_options)
    return Dataset(root, read_root_manifest(root))


def _subject_id(given: object) -> int:
    """An id as int; TypeError, which says what else to use, for anything else."""
    try:
        return operator.index(given)  # type: ignore[arg-type]
    except TypeError as error:
        known = "data.images[0:64] are those of several subjects, data.view('test') the subjects of a split"
        raise TypeError(
            f"a subject is found by one whole number, such as data[17], not by {given!r}; {known}"
        ) from error
