"""Where everything lies in a workspace: the one place that makes a path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from schemas import arrow
from schemas.tables import Table

SETTINGS = "longtail.yaml"
"""A folder with this file is a workspace's root."""
OWN = frozenset(
    (
        *(SETTINGS, "tables", "index", "encoders", "datasets", "references", "runs", "triggers"),
        *("forgetting.json", "reviews.db", "reviews.db-wal", "reviews.db-shm"),
    )
)
"""What a workspace keeps at its root, beside hidden files."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """The tables and folders below a workspace's root. Picklable; opens nothing by itself."""

    root: Path

    @property
    def samples(self) -> Table:
        return Table(self.root / "tables" / "samples", arrow.SAMPLES, partition_by="encoder")

    @property
    def uris(self) -> Table:
        return Table(self.root / "tables" / "uris", arrow.URIS)

    @property
    def rejects(self) -> Table:
        return Table(self.root / "tables" / "rejects", arrow.REJECTS)

    @property
    def patches(self) -> Table:
        return Table(self.root / "tables" / "patches", arrow.PATCHES, partition_by="encoder")

    @property
    def forgotten(self) -> Table:
        return Table(self.root / "tables" / "forgotten", arrow.FORGOTTEN)

    @property
    def scores(self) -> Table:
        return Table(self.root / "tables" / "scores", arrow.SCORES, partition_by="run_id")

    @property
    def triggers(self) -> Path:
        return self.root / "triggers"

    def trigger(self, name: str) -> Path:
        return self.triggers / f"{name}.json"

    @property
    def reviews(self) -> Path:
        return self.root / "reviews.db"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    @property
    def forgetting(self) -> Path:
        """Which samples are being forgotten; there after a crash, until a later run is done."""
        return self.root / "forgetting.json"

    @property
    def scratch(self) -> Path:
        """What only the run in progress needs; the next run removes what it left."""
        return self.root / ".scratch"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def references(self) -> Path:
        return self.root / "references"

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    def encoder(self, encoder_id: str) -> Path:
        """The file that says what an encoder of the samples table was."""
        return self.root / "encoders" / f"{encoder_id}.json"

    def bank(self, encoder_id: str) -> Path:
        """The reference patches that an encoder's patch scores are measured from."""
        return self.root / "encoders" / f"{encoder_id}.patches.npz"

    def banks(self) -> list[Path]:
        """Those of all encoders."""
        return sorted((self.root / "encoders").glob("*.patches.npz"))

    def index(self, encoder_id: str) -> Path:
        return self.root / "index" / encoder_id

    def indexes(self) -> list[Path]:
        """The folders of all encoders' indexes."""
        return sorted(path for path in (self.root / "index").glob("*") if path.is_dir())

    def reference(self, name: str) -> Path:
        """The folder of a fitted reference: its state and its own index."""
        return self.references / name

    def run(self, run_id: str) -> Path:
        return self.runs / run_id

    def dataset(self, name: str) -> Path:
        return self.datasets / name
