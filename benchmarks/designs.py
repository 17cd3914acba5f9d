"""Study designs against their bars: coverage of intervals, strengths, bias, undetectable zeros, learners, cost.

Command: python -m benchmarks.designs            (half an hour on two cores: up to 100,000 subjects and 300 seeds)
         python -m benchmarks.designs --quick    (minutes)
         ... --only strengths                    (one of: strengths, coverage, zero, models, learners, cost)

Only the learners, a probe of sites and ``cost`` need images. ``coverage``: how many of the seeds' 95 % intervals hold
the designed number. ``zero``: Kolmogorov-Smirnov p-value of the seeds' p-values of a link that is designed to be 0.
``models``: trials on three longitudinal models. ``learners``: on phantom images at 32x32, R² and policy gain of the
learners as shares of the oracle's. ``cost``: CPU seconds of a study of two arms over those of the plain data set: of
the numbers and images alone, and of the whole command.
"""

import time
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f as f_law
from scipy.stats import kstest, norm

from benchmarks.report import argument_parser, print_result
from benchmarks.study_cost import command_cost
from image_longitudinal.core.config import GeneratorConfig, OutcomesConfig
from image_longitudinal.core.random import subject_seeds
from image_longitudinal.core.study_config import StudyConfig
from image_longitudinal.models.design.achieved import AchievedRow
from image_longitudinal.models.design.association import AssociationSums, associate, draw_latents, scale_effects
from image_longitudinal.models.design.functionals import summarise
from image_longitudinal.models.design.potential_outcomes import PotentialOutcomes, potential_outcomes
from image_longitudinal.models.design.quadrature import causal_design, conditional_effects
from image_longitudinal.models.design.study import StudyDesign, StudySubjects, effect_name
from image_longitudinal.models.evaluation.causal import Treated, learn_effects, mean_effects, policy_gain
from image_longitudinal.models.evaluation.pca_regressor import fit_pca_regressor, polynomial, readable
from image_longitudinal.models.evaluation.ridge import row_chunks
from image_longitudinal.models.evaluation.site_probe import acquisition_features, probe_auc
from image_longitudinal.models.imaging.backends import load_image_model
from image_longitudinal.models.imaging.interface import generate_in_batches
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.simulation.simulate import observe, simulate
from image_longitudinal.tasks.reports.study_rows import StudyRecord, rows_of, sums_of

FloatArray = NDArray[np.float64]
PARTS = ("strengths", "coverage", "zero", "models", "learners", "cost")
LATENT_DIM, ETA_DIMS, LEVEL = 16, (0, 1, 2), 0.5
SIZES = {  # full, quick
    "strengths": (100_000, 20_000), "coverage seeds": (300, 20), "coverage": (5_000, 1_000), "zero seeds": (200, 40),
    "zero": (20_000, 5_000), "models": (20_000, 2_000), "learners": (50_000, 3_000), "test": (10_000, 600),
    "cost": (20_000, 2_000), "command": (40_000, 2_000),
}  # fmt: skip
STUDY: dict[str, Any] = {
    "functional": "area",
    "arms": [{"name": "control", "share": 0.5}, {"name": "drug", "share": 0.5, "effects": [
        {"parameter": "ic50", "mean": 0.5, "sd": 0.5, "image_share": 0.5}]}],
    "covariates": [
        {"name": "weight", "mean": 70, "sd": 0.2, "log": True, "linked_to": "image", "level": 0.3},
        {"name": "sex", "kind": "binary", "shares": [0.4, 0.6], "linked_to": "prognosis", "level": 0.2},
        {"name": "stage", "kind": "categorical", "shares": [0.5, 0.3, 0.2], "linked_to": "image", "level": 0.25}],
    "assignment": {"kind": "confounded", "auc": 0.75, "image_share": 0.4, "prognosis": 0.6},
    "sites": [{"name": "north", "share": 0.4}, {"name": "south", "share": 0.6}],
    "shortcut": {"to": "outcome", "correlation": 0.3},
}  # fmt: skip
TRIAL: dict[str, Any] = {  # the knobs and links that the other study has not
    "functional": "slope",
    "association": [{"effect": "imax", "level": 0.2}, {"effect": "ic50", "level": 0.9}],
    "arms": [{"name": "placebo", "share": 0.5, "doses": []}, {"name": "low", "share": 0.25}, {
        "name": "high", "share": 0.25, "doses": [{"amt": 2.0}], "effects": [
            {"parameter": "ic50", "mean": -0.3, "sd": 0.6, "image_share": 0.2},
            {"parameter": "ka", "mean": 0.2, "sd": 0.4, "image_share": 0.8}]}],
    "covariates": [
        {"name": "marker", "linked_to": "arm", "level": 0.2},
        {"name": "centre", "kind": "binary", "shares": [0.3, 0.7], "linked_to": "arm", "level": 0.3},
        {"name": "stage", "kind": "categorical", "shares": [0.5, 0.3, 0.2], "linked_to": "prognosis", "level": 0.5},
        {"name": "weight", "mean": 70, "sd": 0.2, "log": True, "linked_to": "prognosis", "level": 0.4, "effects": [
            {"parameter": "imax", "effect": "power", "reference": 70, "coefficient": 0.75}]}],
    "sites": [{"name": "north", "share": 0.2}, {"name": "east", "share": 0.3}, {"name": "south", "share": 0.5}],
    "shortcut": {"to": "arm", "correlation": -0.4},
}  # fmt: skip

MODELS: dict[str, tuple[dict[str, Any], list[dict[str, Any]], str]] = {  # outcomes, arms, functional
    "depot-central-mm": ({}, STUDY["arms"], "area"),
    "indirect-response-3": (  # the drug stimulates the response; the second arm has a more potent one
        {"times": [0, 2, 4, 8, 12, 24, 48], "doses": [{"amt": 100.0}]},
        [{"name": "standard", "share": 0.5}, {"name": "new", "share": 0.5, "effects": [
            {"parameter": "ec50", "mean": -0.5, "sd": 0.5, "image_share": 0.5}]}], "area"),
    "visual-acuity": (  # an injection into the eye every 4 weeks for 2 years; the second drug works better in some
        {"times": [28 * month for month in range(0, 25, 2)], "doses": [{"amt": 0.5, "ii": 28, "addl": 23}]},
        [{"name": "sham", "share": 0.5, "doses": []}, {"name": "injections", "share": 0.5, "effects": [
            {"parameter": "emax", "mean": 0.0, "sd": 0.5, "image_share": 0.5}]}], "outcome"),
}  # fmt: skip


def design_of(seed: int, base: dict[str, Any] = STUDY, **changed: Any) -> StudyDesign:
    """A design of the benchmark with some values changed."""
    study = StudyConfig.model_validate(base | changed)
    return StudyDesign(study, OutcomesConfig(), seed, LEVEL, LATENT_DIM, ETA_DIMS)


def arms_of(**effect: float) -> list[dict[str, Any]]:
    """The arms of the benchmark with another effect."""
    control, drug = STUDY["arms"]
    return [control, {**drug, "effects": [drug["effects"][0] | effect]}]


def made(design: StudyDesign, n: int) -> tuple[StudySubjects, PotentialOutcomes]:
    """Subjects 0 to n - 1 and their outcomes under both arms."""
    subjects = design.draw(np.arange(n))
    return subjects, potential_outcomes(design, subjects)


def record_of(design: StudyDesign, subjects: StudySubjects, potential: PotentialOutcomes) -> StudyRecord:
    """What the tables of a data set would hold."""
    name, rows = design.study.functional, np.arange(len(subjects.ids))
    y = potential.functionals[name]
    columns = {name: np.asarray(values, np.float64) for name, values in subjects.covariates.items()}
    columns["arm"] = subjects.arm.astype(np.float64)
    columns["site"] = design.draw_sites(subjects, y[subjects.arm, rows]).astype(np.float64)
    effects = {name: y.T, f"effect_{name}": (y - y[0]).T}
    for (arm, parameter), tau in subjects.effects.items():
        effects.setdefault(f"tau_{parameter}", np.zeros((len(rows), len(design.arms))))[:, arm] = tau
    return StudyRecord(subjects.latents, subjects.eta, columns, effects, subjects.confounder)


def achieved_rows(design: StudyDesign, n: int) -> list[AchievedRow]:
    """Every designed number of a study beside what ``n`` subjects achieve, association included."""
    subjects, potential = made(design, n)
    rows = rows_of(design, sums_of(design, record_of(design, subjects, potential), first=True), first=True)
    for k, level in enumerate(design.levels):
        found = AssociationSums.of(subjects.linked[:, k], subjects.eta[:, k]).r_squared()
        rows.append(AchievedRow("association", f"R² of random effect {k + 1} on its latent dimension", level, *found))
    return rows


def strengths(n: int) -> dict[str, float]:
    """Designed against achieved numbers of one large study."""
    design = design_of(1)
    subjects, potential = made(design, n)
    designed, y, arm = causal_design(design)[1], potential.functionals["area"], subjects.arm
    effect, treated, rows = y[1] - y[0], arm == 1, np.arange(n)
    naive = y[1][treated].mean() - y[0][~treated].mean() - effect.mean()
    error = np.sqrt(y[1][treated].var() / treated.sum() + y[0][~treated].var() / (~treated).sum())
    data = Treated(subjects.ids, subjects.latents, treated, y[arm, rows], subjects.propensities[:, 1])
    found = {one.estimator: (one.value - designed.effect) / one.error for one in mean_effects(data)}
    _, dv = potential.taken(arm)
    along = design.normals["effect drug ic50"].of_image(subjects.latents)
    r2 = float(np.corrcoef(subjects.effects[1, "ic50"], along)[0, 1] ** 2)
    figures = {
        "r2_of_effects": r2, "bias_minus_designed_in_se": float((naive - designed.bias) / error),
        "ipw_in_se": found["IPW, true propensity"], "aipw_in_se": found["AIPW, true propensity"],
        "observed_equals_potential": float((dv == potential.dv[arm, rows]).all()),
    }  # fmt: skip
    for name, value in figures.items():
        print(f"  {name:32} {value:.4f}")
    return figures


def coverage(n: int, seeds: int) -> dict[str, dict[str, float]]:
    """Share of the seeds, in percent, whose interval holds the designed number: over rows of the report, by knob."""
    inside: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(seeds):
        for name, base in (("confounded", STUDY), ("randomised", TRIAL)):
            for row in achieved_rows(design_of(seed, base), n):
                inside[row.knob][f"{name}: {row.name}"].append(row.inside)
    found = {}
    for knob, rows in inside.items():
        shares = {name: 100 * float(np.mean(values)) for name, values in rows.items()}
        low, high, mean = min(shares.values()), max(shares.values()), float(np.mean([*shares.values()]))
        found[knob] = {"rows": len(rows), "lowest": low, "highest": high, "mean": mean}
        print(f"  {knob}: {low:.1f} to {high:.1f} %, mean {mean:.1f} %")
        for name, share in shares.items():
            print(f"    {name:88} {share:.1f} %")
    return found


def zero(n: int, seeds: int) -> dict[str, float]:
    """p-value of the uniformity of p-values of probes for links that are designed to be 0.

    Probes of an image are regressions on all latent dimensions, and for the site, whose scanner has strength 0, one on
    features of phantom images. The images are those of one seed: the site does not depend on them.
    """
    found: dict[str, list[float]] = defaultdict(list)
    assignment = {**STUDY["assignment"], "prognosis": 0.0, "image_share": 0.0}
    covariates = [{**one, "level": 0.0} for one in STUDY["covariates"]]
    ids = np.arange(n)
    pictures = acquisition_features(images_of(ids, draw_latents(1, ids, LATENT_DIM), 1))
    half = ids < n // 2
    for seed in range(seeds):
        design = design_of(
            seed, arms=arms_of(image_share=0.0), assignment=assignment, covariates=covariates, shortcut={}
        )
        subjects = design.draw(ids)
        site, z = design.draw_sites(subjects), subjects.latents.astype(np.float64)
        prognosis = subjects.eta @ np.array(design.prognosis_weights)
        own = subjects.covariates
        for name, values, probe in (
            ("effect and image", subjects.effects[1, "ic50"], z), ("confounder and image", subjects.confounder, z),
            ("weight and image", own["weight"], z), ("stage and image", own["stage"], z),
            ("confounder and prognosis", subjects.confounder, prognosis[:, None]),
            ("sex and prognosis", own["sex"], prognosis[:, None]), ("site and arm", site, subjects.arm[:, None]),
            ("arm and prognosis", subjects.arm, prognosis[:, None]),
        ):  # fmt: skip
            found[name].append(_nothing(np.asarray(values, np.float64), np.asarray(probe, np.float64)))
        auc, low, high = probe_auc(pictures[half], site[half] == 1, pictures[~half], site[~half] == 1)
        found["site and image (AUC)"].append(float(2 * norm.sf(abs(auc - 0.5) / ((high - low) / (2 * 1.959964)))))
    p_values = {name: float(kstest(values, "uniform").pvalue) for name, values in found.items()}
    for name, value in p_values.items():
        print(f"  {name:32} {value:.3f}")
    return p_values


def _nothing(values: FloatArray, probe: FloatArray) -> float:
    """p-value of the F-test that a regression of values (n,) on a probe (n, F) explains nothing."""
    x, y = probe - probe.mean(0), values - values.mean()
    n, k = x.shape
    explained = float(y @ x @ np.linalg.solve(x.T @ x, x.T @ y))
    return float(f_law.sf((explained / k) / ((float(y @ y) - explained) / (n - k - 1)), k, n - k - 1))


def models(n: int) -> dict[str, dict[str, float]]:
    """A trial on each kind of longitudinal model: the share of the effects that the image explains, and their mean."""
    found = {}
    for name, (outcomes, arms, functional) in MODELS.items():
        study = StudyConfig.model_validate({"functional": functional, "arms": arms})
        model = OutcomesConfig.model_validate({"model": name, **outcomes})
        dims = tuple(range(get_model(name).n_random_effects))
        design = StudyDesign(study, model, 1, LEVEL, LATENT_DIM, dims)
        subjects, potential = made(design, n)
        (arm, effect), designed = design.treatment()[-1], causal_design(design)
        y = potential.functionals[functional]
        along = design.normals[effect_name(design.arms[arm], effect)].of_image(subjects.latents)
        gained = y[arm] - y[0]
        _, dv = potential.taken(subjects.arm)
        found[name] = {
            "r2_of_effects": float(np.corrcoef(subjects.effects[arm, effect.parameter], along)[0, 1] ** 2),
            "mean_effect": float(gained.mean()), "designed_effect": designed[arm].effect,
            "error_in_se": float((gained.mean() - designed[arm].effect) / (gained.std() / np.sqrt(n))),
            "observed_equals_potential": float((dv == potential.dv[subjects.arm, np.arange(n)]).all()),
        }  # fmt: skip
        print(f"  {name:20} " + "  ".join(f"{key} {value:.4g}" for key, value in found[name].items()))
    return found


def images_of(ids: NDArray[np.int64], latents: NDArray[np.float32], seed: int) -> NDArray[np.uint8]:
    """Phantom images at 32x32."""
    generator = GeneratorConfig(backend="phantom", image_size=32, latent_dim=LATENT_DIM)
    model = load_image_model(generator, None, "cpu")
    return generate_in_batches(model, latents, subject_seeds(seed, ids), 256)


def learners(n: int, m: int) -> dict[str, dict[str, float]]:
    """R² and policy gain of the learners from images as shares of the oracle's, in percent.

    ``n`` subjects to learn from, ``m`` to test; once randomised, once confounded.
    """
    ids = np.arange(n + m)
    latents = draw_latents(1, ids, LATENT_DIM)
    images = images_of(ids, latents, 1)
    chunks = [(ids[s], images[s], latents[s]) for s in row_chunks(n, 2000)]
    reader = fit_pca_regressor(lambda: iter(chunks))
    read = np.concatenate([reader.out_of_fold(x, own) for own, x, _ in chunks])
    told = readable(read, latents[:n])
    train, test = polynomial(read[:, told], LATENT_DIM), polynomial(reader(images[n:])[:, told], LATENT_DIM)
    found = {}
    for name, assignment in (("randomised", {}), ("confounded", STUDY["assignment"])):
        print(f"  {name}")
        found[name] = _learned(design_of(1, arms=arms_of(mean=0.0), assignment=assignment), train, test)
    return found


def _learned(design: StudyDesign, train: FloatArray, test: FloatArray) -> dict[str, float]:
    """Of features (n, F) of the first subjects, and (m, F) of the next."""
    n = len(train)
    subjects, potential = made(design, n + len(test))
    outcome = summarise(potential.taken(subjects.arm)[1], design.outcomes.times)["area"]
    data = Treated(subjects.ids[:n], train, subjects.arm[:n] == 1, outcome[:n], subjects.propensities[:n, 1])
    both = potential.functionals["area"][:, n:].T
    effect = both[:, 1] - both[:, 0]
    oracle = conditional_effects(design, subjects.latents[n:], 1)

    def figures(values: FloatArray) -> tuple[float, float]:
        return 1 - float(np.square(effect - values).mean() / effect.var()), policy_gain(values > 0, both)

    best = figures(oracle)
    found = {"oracle_r2": best[0], "oracle_gain": best[1]}
    for name, values in learn_effects(data, test).items():
        r2, gain = figures(values)
        found |= {f"{name}_r2_percent": 100 * r2 / best[0], f"{name}_gain_percent": 100 * gain / best[1]}
    for name, value in found.items():
        print(f"    {name:32} {value:.4g}")
    return found


def cost(n: int, commands: int) -> dict[str, float]:
    """CPU seconds of a study of two arms over those of the same subjects without one; images are made once in both.

    ``n`` subjects in this process, ``commands`` by the whole command.
    """
    ids = np.arange(n)
    design = design_of(1, assignment={}, shortcut={}, covariates=[])
    made(design, 10)  # compiles

    def plain() -> None:
        z = draw_latents(1, ids, LATENT_DIM)
        linked = scale_effects(z[:, list(ETA_DIMS)].astype(np.float64), design.model.omega)
        eta = associate(linked, LEVEL, omega=design.model.omega, seed=1, ids=ids)
        observe(design.model, simulate(design.model, eta, design.outcomes.times), key=1, ids=ids)

    seconds = {}
    latents = draw_latents(1, ids, LATENT_DIM)
    for name, work in (
        ("images", lambda: images_of(ids, latents, 1)),
        ("plain", plain),
        ("study", lambda: made(design, n)),
    ):
        began = time.process_time()
        work()
        seconds[name] = time.process_time() - began
    ratio = (seconds["images"] + seconds["study"]) / (seconds["images"] + seconds["plain"])
    print(f"  numbers and images: {ratio:.2f} times the plain data set: {seconds}")
    found = {"cost_ratio": ratio, **{f"{name}_seconds": value for name, value in seconds.items()}}
    found |= (whole := command_cost(commands, STUDY["arms"]))
    for name in ("", "_images_reused"):
        found[f"command{name}_ratio"] = whole[f"study{name}_command_seconds"] / whole[f"plain{name}_command_seconds"]
        print(f"  whole command{name.replace('_', ' ')}: {found[f'command{name}_ratio']:.2f} times")
    return found


def main() -> None:
    """Run the parts that are asked for."""
    parser = argument_parser(__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="one part; repeatable")
    options = parser.parse_args()
    size = {name: sizes[1] if options.quick else sizes[0] for name, sizes in SIZES.items()}
    works = {
        "strengths": lambda: strengths(size["strengths"]),
        "coverage": lambda: coverage(size["coverage"], size["coverage seeds"]),
        "zero": lambda: zero(size["zero"], size["zero seeds"]),
        "models": lambda: models(size["models"]),
        "learners": lambda: learners(size["learners"], size["test"]),
        "cost": lambda: cost(size["cost"], size["command"]),
    }
    figures: dict[str, Any] = {}
    for part in options.only or PARTS:
        print(part)
        figures[part] = works[part]()
    print_result(("numpy", "scipy"), figures)


if __name__ == "__main__":
    main()
