"""The science: image models, random effects, outcomes. Never imports Prefect."""

import os

# Before torch starts its threads: by default they wait by spinning, and as soon as another process wants the same cores
# a training step takes up to ten times as long (measured on two cores: 4.5 s against 0.4 s).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
