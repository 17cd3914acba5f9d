"""What images tell of the site where they were acquired: a logistic probe on features of acquisition."""

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.design.achieved import AUCSums

FloatArray = NDArray[np.float64]
BANDS = 8  # horizontal bands whose mean grey is a feature: gain, contrast, offset


def acquisition_features(images: NDArray[np.uint8]) -> FloatArray:
    """Features (n, F) of images (n, H, W): grey by band, spread, and sharpness and grain in both directions."""
    grey = images.astype(np.float64) / 255
    height = grey.shape[1] // BANDS * BANDS
    bands = grey[:, :height].reshape(len(grey), BANDS, -1).mean(2)
    down, across = np.diff(grey, axis=1), np.diff(grey, axis=2)
    grain = across[:, :, 1:] - across[:, :, :-1]
    others = [grey.std((1, 2)), np.abs(down).mean((1, 2)), np.abs(across).mean((1, 2)), np.square(grain).mean((1, 2))]
    together = np.column_stack([bands, *others])
    return np.concatenate([together, np.log(together[:, -4:] + 1e-6)], axis=1)


def probe_auc(
    train: FloatArray, site: NDArray[np.bool_], test: FloatArray, test_site: NDArray[np.bool_]
) -> tuple[float, float, float]:
    """AUC of a probe for one site on test subjects, with its interval; features (n, F) and (m, F)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(train, site)
    score = probe.decision_function(test)
    rank = np.empty(len(score))
    rank[np.argsort(score, kind="stable")] = (np.arange(len(score)) + 0.5) / len(score)
    return AUCSums.of(rank, test_site).auc()
