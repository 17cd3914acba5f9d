"""Names of others in a page are text."""

from types import SimpleNamespace

from image_longitudinal.tasks.reports import pages


def test_html_in_a_name_stays_text() -> None:
    hostile = '<img src=x onerror="alert(1)">'
    fit = SimpleNamespace(
        method=hostile, converged=True, message=hostile, objective=1.0, condition_number=1.0,
        table={hostile: (1.0, 0.1)}, shrinkage=(0.1,),
        model=SimpleNamespace(random_effect_names=(hostile,), omega=((1.0,),)),
    )  # fmt: skip
    options = SimpleNamespace(model=hostile, table=hostile, level=0.5, split=hostile)
    summary = SimpleNamespace(subjects_fitted=3, observations=9)
    pictures = dict.fromkeys(("effects", "fit", "individual", "vpc", "pcvpc", "npde"), b"\x89PNG")
    made = pages.page(
        "fit.html", pictures, fit=fit, options=options, summary=summary, warnings=[hostile], sd=[1.0], inside=[1, 1],
        replicates=3, shown=3,
    )  # fmt: skip
    assert hostile not in made
    assert made.count("&lt;img src=x onerror=&#34;alert(1)&#34;&gt;") >= 7
