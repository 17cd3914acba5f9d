"""A scorecard has every question that can be answered, and only those; its picture shows every method."""

from image_longitudinal.models.registry.judgement import (
    ClassRecall,
    Figure,
    Interval,
    MethodAccuracy,
    PatientDistances,
    UtilityFigures,
)
from image_longitudinal.models.registry.metadata import CopyFigures, MembershipFigures
from image_longitudinal.tasks.reports.model_card import model_card
from image_longitudinal.tasks.reports.scorecard import scorecard_figure, scorecard_rows
from tests.models.conftest import judgement, model_metadata

HALF = Interval(value=0.52, low=0.4, high=0.64)
UTILITY = UtilityFigures(
    methods=tuple(
        MethodAccuracy(
            name=name, real=HALF, trained_on_generated=Interval(value=value, low=0.3, high=0.6),
            tested_on_generated=HALF, within_generated=HALF,
        )
        for name, value in (("support vectors", 0.41), ("random forest", 0.43))
    ),
    rank_agreement=0.6, calibration_error_real=0.05, calibration_error_generated=0.12,
    recalls=tuple(ClassRecall(label=label, real=HALF, trained_on_generated=HALF) for label in ("CNV", "NORMAL")),
)  # fmt: skip


def full():
    distances = Figure(**HALF.model_dump(), null=0.5, null_low=0.4, null_high=0.6)
    judged = judgement("a" * 64, 3.0).model_copy(
        update={
            "training_patients": PatientDistances(patients=20, nearer=distances, least_ratio=distances),
            "utility": UTILITY,
        }
    )
    copies = CopyFigures(images=9, scans=9, share=0.25, held_out_share=0, least_ratio=0.1, held_out_least_ratio=0.4)
    membership = MembershipFigures(members=20, others=20, vae_auc=HALF, diffusion_auc=None)
    measured = model_metadata(recoverability=0.9).measured
    return measured.model_copy(update={"judgement": judged, "copies": copies, "membership": membership})


def test_every_question_stands_once_and_every_figure_beside_that_of_scans():
    rows = scorecard_rows(full())
    assert [row.question for row in rows if row.question] == [
        "Do they look like scans? (congruence)",
        "Do they vary like scans? (coverage)",
        "Do they obey anatomy? (constraint)",
        "Is every class there? (completeness)",
        "Do methods learn from them what they learn from scans? (utility)",
        "For every class alike? (subgroups)",
        "Do they give patients away? (compliance)",
        "Are they the same each time? (consistency)",
    ]
    assert all(row.figure and row.generated and row.real for row in rows)
    by_name = {row.figure: row for row in rows}
    assert by_name["copies of single training scans, share"].generated == "0.250"
    learnt = by_name["support vectors, balanced accuracy on new scans: trained on generated images, on scans"]
    assert (learnt.generated, learnt.real) == ("0.41 (0.3 to 0.6)", "0.52 (0.4 to 0.64)")
    assert not any("diffusion" in row.figure for row in rows), "of a VAE alone"


def test_without_a_judge_there_is_no_scorecard_and_without_classes_no_utility():
    measured = full()
    assert scorecard_rows(measured.model_copy(update={"judgement": None})) == []
    plain = measured.judgement.model_copy(update={"utility": None, "pathology": None})
    questions = {row.question for row in scorecard_rows(measured.model_copy(update={"judgement": plain}))}
    assert not any("utility" in question or "completeness" in question for question in questions)


def test_card_and_picture_show_it():
    metadata = model_metadata(recoverability=0.9).model_copy(update={"measured": full()})
    card = model_card(metadata)
    assert (
        "| Do they give patients away? (compliance) | copies of single training scans, share | 0.250 | 0.000 |" in card
    )
    assert len(scorecard_figure(UTILITY).axes) == 1
