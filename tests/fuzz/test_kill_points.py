"""SIGKILL at the n-th file call: the same command ends in the same digests, also when it is killed again."""

import random
import shutil
from pathlib import Path

from tests.fuzz.conftest import Reference
from tests.fuzz.runs import KILL, Job, Runs, points, result, timed


def test_killed_at_any_file_call(runs: Runs, reference: Reference, site: Path) -> None:
    expected, whole = reference
    chance, again = random.Random(2), 0
    print(f"\na run has {whole.calls} file calls")
    for point in points(whole.calls, seed=1):
        with timed(f"killed at call {point}"):
            assert runs.run(Job(str(site), "kill", point, point)).status == KILL
            while chance.random() < 0.3:
                ended = runs.run(Job(str(site), "kill", number := chance.randrange(1, whole.calls), number))
                assert ended.status in (KILL, 0), ended.output  # it may have fewer calls left
                again += ended.status == KILL
            ended = runs.run(Job(str(site)))
            assert ended.status == 0, f"killed at call {point}: {ended.output}"
            assert result(site) == expected, f"killed at call {point}"
        shutil.rmtree(site)
    print(f"{again} of the reruns were killed as well")
