"""The science: image models, random effects, outcomes. Never imports Prefect."""

import os

# Before torch starts its threads: by default they wait for each other by spinning long, and as soon as another process
# wants the same cores a training step takes up to ten times as long (measured on two cores: 1.3 to 4.5 s, against 0.4 s
# with a short spin, which costs under a tenth when the machine is quiet).
os.environ.setdefault("GOMP_SPINCOUNT", "4000")
