"""The section of fit.json on images: how much of the random effects' variances they explain, and what chance gives."""

from image_longitudinal.core.config import Section

LEARNERS = {
    "linear": "linear in features", "mlp": "a network of features", "cnn": "a network of pixels",
}  # fmt: skip


class ExplainedShare(Section):
    """Share of a random effect's variance that images explain.

    ``share`` with its 95 % interval (bootstrap over held-out subjects); ``omega2`` the variance without images, and
    ``left`` around g; ``null`` the least, the median and the largest share with images permuted, if any were.
    """

    share: float
    low: float
    high: float
    omega2: float
    left: float
    null: tuple[float, float, float] | None


class ImageSummary(Section):
    """What images explain. Objectives are minus twice the log-likelihood of all subjects, g of each by other subjects.

    ``gain``: by how much images lower it; ``permutations`` of images over subjects lowered it by at most ``null_gain``,
    where one round with the right images lowered it by ``one_round``; ``p`` of these permutations.
    """

    key: str
    images: int
    subjects: int
    features: str
    model: str
    learning: str
    objectives: tuple[float, ...]
    gain: float
    shares: dict[str, ExplainedShare]
    omega: tuple[tuple[float, ...], ...]
    permutations: int
    one_round: float | None
    null_gain: float | None
    p: float | None

    def lines(self) -> list[str]:
        """As text."""
        how = "within the likelihood" if self.learning == "likelihood" else "in two steps"
        lines = [
            f"images: {self.images:,} of {self.subjects:,} subjects, {LEARNERS[self.model]} ({self.features}), {how}",
            f"  -2 log L of held-out subjects: {self.objectives[0]:.2f} without images, lower by {self.gain:.2f} with",
        ]
        if self.p is not None:
            lines.append(
                f"  {self.permutations} permutations of the images: lower by {self.null_gain:.2f} at most "
                f"(the right ones in one round: {self.one_round:.2f}; p {self.p:.2g})"
            )
        for name, own in self.shares.items():
            null = f"; permuted {own.null[0]:.0%} to {own.null[2]:.0%}" if own.null else ""
            interval = f"95 % {own.low:.0%} to {own.high:.0%}{null}"
            lines.append(f"  {name}: images explain {own.share:.0%} of ω² {own.omega2:.4g} ({interval})")
        return lines
