"""The section ``study``: designs beyond the association of image and outcomes. Empty by default: nothing is added.

docs/reference/designs.md defines every number. An image-linked standard normal is u = w·z, with a direction w of length
1 over the entries of the latent vector; linked at level r means √r·u + √(1 - r)·ε, so that the image explains the share
r.
"""

import math
from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from image_longitudinal.core.doses import DoseConfig
from image_longitudinal.core.section import Section

Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,29}$")]  # becomes a column
Direction = tuple[float, ...] | None
Functional = Literal["outcome", "area", "slope"]

DIRECTION = "Weights of the entries, scaled to length 1; null: drawn from the seed, and recorded in the manifest."
IMAGE_SHARE = "Share of its variance that the image explains."


def _unique(what: str, names: Iterable[str]) -> None:
    given = list(names)
    if len(set(given)) != len(given):
        raise ValueError(f"{what} must differ from each other, got {given}")


def _adds_up(what: str, shares: Iterable[float]) -> None:
    if not math.isclose(total := sum(shares), 1.0, abs_tol=1e-9):
        raise ValueError(f"{what} must add up to 1, got {total:g}")


RESERVED = frozenset({  # columns of the tables, and names that tables in NM-TRAN's columns or of other programs use
    "arm", "site", "id", "split", "shard", "seed", "association", "image_index", "time", "date", "dat1", "dat2",
    "dat3", "evid", "amt", "rate", "cmt", "adm", "addl", "ii", "ss", "dv", "y", "cobs", "mdv", "dvid", "ytype",
    "obsid", "cens", "blq", "bloq", "bql", "tinf", "lloq", "loq", "limit", "occ",
})  # fmt: skip


class EffectAssociation(Section):
    """The association of one random effect, in place of the level of the data set."""

    effect: str = Field(description="Name of the parameter whose random effect it is.")
    level: Share = Field(description="Share of the random effect's variance that the image explains.")


class ArmEffect(Section):
    """What an arm adds to a parameter, on the scale on which random effects add (the logarithm of most parameters)."""

    parameter: str = Field(description="Any parameter of the longitudinal model.")
    mean: float = Field(
        0.0, description="τ, the mean effect, on that scale: 0.5 of a log-normal parameter is a factor of 1.65."
    )
    sd: float = Field(0.0, ge=0, description="Standard deviation of the subjects' own effects around τ, same scale.")
    image_share: Share = Field(0.0, description=IMAGE_SHARE)
    direction: Direction = Field(None, description=DIRECTION)


class ArmCovariate(Section):
    """A covariate of the longitudinal model to which an arm gives its value, such as a concentration."""

    name: Name = Field(description="Name of the covariate in the longitudinal model.")
    value: float = Field(description="Its value under the arm, in the covariate's own unit.")


class Arm(Section):
    """One arm of a trial."""

    name: Name = Field(description="Lower-case name, which becomes part of columns.")
    share: Part = Field(description="Share of the subjects; all arms together 1.")
    doses: tuple[DoseConfig, ...] | None = Field(None, description="Its doses; null: outcomes.doses. []: none.")
    covariates: tuple[ArmCovariate, ...] = Field((), description="Covariates of the longitudinal model that it sets.")
    effects: tuple[ArmEffect, ...] = Field((), description="Its effects on parameters.")

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        _unique("parameters with an effect", (effect.parameter for effect in self.effects))
        _unique("covariates of an arm", (one.name for one in self.covariates))
        return self


class Assignment(Section):
    """How subjects come into arms."""

    kind: Literal["randomised", "confounded"] = Field(
        "randomised", description="confounded: P(second arm) = logistic(a + γ·c) of a confounder c ~ N(0, 1)."
    )
    blocks: Literal["none", "all", "site"] = Field(
        "none", description="randomised: blocks of fixed composition, of all subjects or of those of one site."
    )
    block_size: int = Field(4, ge=2, le=1024, description="Subjects in a block.")
    auc: float = Field(  # what can be had depends on the share: models.design.confounding says it
        0.7, description="confounded: AUC of the true propensity for the arm, from 0.5.",
        json_schema_extra={"minimum": 0.5, "exclusiveMaximum": 1},
    )  # fmt: skip
    image_share: Share = Field(0.0, description="confounded: share of the variance of c that the image explains.")
    prognosis: float = Field(0.0, gt=-1, lt=1, description="confounded: correlation of c with the prognosis.")
    direction: Direction = Field(None, description=DIRECTION)


class CovariateEffect(Section):
    """How a covariate acts on a parameter, as :func:`models.nlme.model.effects.with_covariate`."""

    parameter: str = Field(description="Parameter of the longitudinal model.")
    effect: Literal["power", "exponential", "linear"] = Field(
        "exponential", description="Times (c / reference)^coefficient or exp(coefficient (c - reference)); or a sum."
    )
    reference: float = Field(0.0, description="Value of the covariate at which it changes nothing.")
    coefficient: float = Field(description="Exponent; change of the logarithm, or of the parameter, per unit.")

    @model_validator(mode="after")
    def _power_needs_a_reference(self) -> Self:
        if self.effect == "power" and self.reference <= 0:
            raise ValueError(f"a power needs a reference above 0, got {self.reference:g}")
        return self


class Covariate(Section):
    """A column of covariate values, made from a standard normal that is linked to something at a level."""

    name: Name = Field(description="Its column.")
    kind: Literal["continuous", "binary", "categorical"] = Field("continuous", description="What its values are.")
    mean: float = Field(0.0, description="continuous: mean, or median if log-normal.")
    sd: float = Field(1.0, gt=0, description="continuous: standard deviation, or of the logarithm if log-normal.")
    log: bool = Field(False, description="continuous: log-normal.")
    shares: tuple[Part, ...] = Field((0.5, 0.5), description="binary, categorical: share of the values 0, 1, ...")
    linked_to: Literal["nothing", "image", "prognosis", "arm"] = Field("nothing", description="What explains it.")
    level: Share = Field(0.0, description="Share of the variance of the normal that what it is linked to explains.")
    direction: Direction = Field(None, description=DIRECTION)
    effects: tuple[CovariateEffect, ...] = Field((), description="What it does to parameters.")

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.kind != "continuous":
            _adds_up(f"shares of covariate {self.name}", self.shares)
            if self.kind == "binary" and len(self.shares) != 2:
                raise ValueError(f"binary covariate {self.name} needs two shares, got {list(self.shares)}")
            if any(effect.effect == "power" for effect in self.effects):
                raise ValueError(f"covariate {self.name} has the value 0: a power cannot act, use exponential")
        elif not self.log and any(effect.effect == "power" for effect in self.effects):
            raise ValueError(f"a power needs a positive covariate: set log for {self.name}, or use exponential")
        elif self.log and self.mean <= 0:
            raise ValueError(f"log-normal covariate {self.name} needs a median above 0, got {self.mean:g}")
        if self.linked_to == "arm" and self.kind != "continuous" and self.level == 1:
            raise ValueError(f"covariate {self.name} cannot be determined by the arm: its level must be below 1")
        if self.linked_to == "arm" and self.effects:
            raise ValueError(
                f"covariate {self.name} is linked to the arm, so it is no baseline value: it cannot act on parameters"
            )
        return self


class Site(Section):
    """A site where images are acquired."""

    name: Name = Field(description="Lower-case name.")
    share: Part = Field(description="Share of the subjects; all sites together 1.")
    strength: float = Field(
        0.0,
        ge=0,
        le=4,
        description="Factor on the shift of its scanner (docs/reference/designs.md); 0: images stay as generated.",
    )


class Shortcut(Section):
    """A correlation of the site with the arm or the outcome, which a predictor from images may exploit."""

    to: Literal["nothing", "arm", "outcome"] = Field("nothing", description="What the site correlates with.")
    correlation: float = Field(0.0, gt=-1, lt=1, description="Of the site's number with the arm's, or the outcome.")


class StudyConfig(Section):
    """Study design: arms, treatment effects, assignment, covariates and sites. Empty: none of it."""

    entries: Literal["auto"] | tuple[Annotated[int, Field(ge=0)], ...] = Field(
        "auto", description="Latent dimensions (from 0) that directions weigh; auto: those of the random effects."
    )
    association: tuple[EffectAssociation, ...] = Field((), description="Levels of single random effects.")
    functional: Functional = Field(
        "outcome", description="What effects and bias are about: last outcome, area under the outcomes, or slope."
    )
    prognosis: Direction = Field(
        None, description="Weights of the random effects in the prognosis; null: as they move the functional."
    )
    covariates: tuple[Covariate, ...] = Field((), description="Columns of covariates.")
    arms: tuple[Arm, ...] = Field((), description="Arms; the first is the one that others are compared with.")
    assignment: Assignment = Field(Assignment(), description="How subjects come into arms.")
    sites: tuple[Site, ...] = Field((), description="Sites where images are acquired.")
    shortcut: Shortcut = Field(Shortcut(), description="What the site correlates with, and how much.")

    @property
    def active(self) -> bool:
        """Whether anything is designed at all."""
        return self != StudyConfig()

    @property
    def needs_prognosis(self) -> bool:
        """Whether arms, covariates or sites depend on random effects, and so on the association level."""
        links = self.assignment.prognosis, self.assignment.image_share
        confounded = self.assignment.kind == "confounded" and any(links)
        by_outcome = self.shortcut.to == "outcome" and self.shortcut.correlation != 0
        return confounded or by_outcome or any(one.linked_to == "prognosis" for one in self.covariates)

    @property
    def shifts_images(self) -> bool:
        """Whether sites change finished images."""
        return any(site.strength for site in self.sites)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        for what, names in (
            ("effects with an association", (one.effect for one in self.association)),
            ("names of covariates", (one.name for one in self.covariates)),
            ("names of arms", (one.name for one in self.arms)),
            ("names of sites", (one.name for one in self.sites)),
        ):
            _unique(what, names)
        if self.entries != "auto":
            _unique("entries", map(str, self.entries))
        if self.arms:
            _adds_up("shares of the arms", (arm.share for arm in self.arms))
        if self.sites:
            _adds_up("shares of the sites", (site.share for site in self.sites))
        assignment, own = self.assignment, {one.name for one in self.covariates}
        set_by_arms = {one.name for arm in self.arms for one in arm.covariates}
        if clash := sorted(name for name in own | set_by_arms if name in RESERVED or name.startswith("eta_")):
            raise ValueError(f"covariates must not have the names of other columns, got {clash}")
        if clash := sorted(own & set_by_arms):
            raise ValueError(f"an arm sets a covariate that study.covariates draw, {clash}")
        if assignment != Assignment() and not self.arms:
            raise ValueError("an assignment needs arms")
        if assignment.kind == "confounded" and (len(self.arms) != 2 or assignment.blocks != "none"):
            raise ValueError("a confounded assignment needs exactly two arms, and no blocks")
        if assignment.blocks != "none":
            counts = [arm.share * assignment.block_size for arm in self.arms]
            if any(not math.isclose(count, round(count), abs_tol=1e-9) for count in counts):
                raise ValueError(f"a block of {assignment.block_size} cannot hold the shares of the arms")
        if assignment.blocks == "site" and not self.sites:
            raise ValueError("blocks within sites need sites")
        if self.shortcut.to != "nothing" and len(self.sites) < 2:
            raise ValueError("a shortcut needs two sites or more")
        if self.shortcut.to == "outcome" and assignment.blocks == "site":
            raise ValueError("a shortcut to the outcome needs arms that do not depend on sites: no blocks within sites")
        if self.shortcut.to == "arm" and (len(self.arms) < 2 or assignment.blocks == "site"):
            raise ValueError("a shortcut to the arm needs two arms or more, and no blocks within sites")
        if any(one.linked_to == "arm" for one in self.covariates) and len(self.arms) < 2:
            raise ValueError("a covariate linked to the arm needs two arms or more")
        return self
