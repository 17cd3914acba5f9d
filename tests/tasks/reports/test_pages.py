"""Names of others in a page are text."""

from types import SimpleNamespace

from image_longitudinal.tasks.reports import pages


def test_html_in_a_name_stays_text() -> None:
    hostile = '<img src=x onerror="alert(1)">'
    fit = SimpleNamespace(
        method=hostile, converged=True, message=hostile, objective=1.0, condition_number=1.0, shrinkage=(0.1,),
        sampling=None,
        model=SimpleNamespace(
            random_effect_names=(hostile,), omega=((1.0,),), structural=SimpleNamespace(likelihood=None)
        ),
    )  # fmt: skip
    options = SimpleNamespace(model=hostile, table=hostile, level=0.5, split=hostile)
    row = SimpleNamespace(
        estimate=1.0, standard_error=0.1, relative_error=10.0, lower=0.8, upper=1.2, sd=None, correlation=None,
        cv_percent=None,
    )  # fmt: skip
    summary = SimpleNamespace(subjects_fitted=3, observations=9, estimates={hostile: row}, figures=None, images=None)
    pictures = dict.fromkeys(("effects", "fit", "individual", "vpc", "pcvpc", "npde"), b"\x89PNG")
    made = pages.page(
        "fit.html", pictures, fit=fit, options=options, summary=summary, warnings=[hostile], sd=[1.0], strata=[],
        replicates=3, shown=3, intervals=[],
    )  # fmt: skip
    assert hostile not in made
    assert made.count("&lt;img src=x onerror=&#34;alert(1)&#34;&gt;") >= 7
