"""Figures of the bundled models in the documentation are those of their cards."""

import re

from image_longitudinal.models.pretrained import BUNDLED
from image_longitudinal.models.registry.judgement import SetMeasures
from image_longitudinal.models.registry.registry import ModelVersion
from tests.paths import ROOT

DOCS = ROOT / "docs"


def measures(name: str) -> SetMeasures:
    """What the judge said of a bundled model at its registration."""
    measured = ModelVersion.open(BUNDLED[name]).metadata.measured
    assert measured is not None
    assert measured.judgement is not None
    return measured.judgement.measures


def test_the_limits_are_those_of_the_bundled_models() -> None:
    text = (DOCS / "explanation" / "limits.md").read_text()
    small, large = measures("pretrained"), measures("pretrained-128")
    found = re.search(r"AUC (\.\d+) at 64x64, (\.\d+) at 128x128", text)
    assert found is not None
    assert [float(one) for one in found.groups()] == [round(own.classifier_auc.value, 3) for own in (small, large)]
    found = re.search(r"recall is (\.\d+) at 64x64 and (\.\d+) at 128x128", text)
    assert found is not None
    assert [float(one) for one in found.groups()] == [round(own.recall.value, 2) for own in (small, large)]


def test_the_table_of_models_is_that_of_their_cards() -> None:
    text = (DOCS / "measurements" / "models.md").read_text()

    def row(title: str) -> list[str]:
        return next(line for line in text.splitlines() if line.startswith(f"| {title}")).split("|")[2:4]

    for name, floors, both, auc in zip(
        ("pretrained", "pretrained-128"), row("outside judge, floors"), row("precision, recall"), row("classifier AUC"),
        strict=True,
    ):  # fmt: skip
        own = measures(name)
        assert float(floors.split()[0]) == round(own.frechet.value, 1)
        assert [float(one) for one in re.findall(r"(\.\d+) \(", both)] == [
            round(own.precision.value, 2), round(own.recall.value, 2),
        ]  # fmt: skip
        assert float(auc.split()[0]) == round(own.classifier_auc.value, 3)
