"""File calls that fail: a run ends in an error of ours or in the same digests; the same command then ends in them."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz.conftest import Reference
from tests.fuzz.runs import REFUSED, Job, Runs, points, result


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("fault", ["EIO", "ENOSPC"])
def test_an_error_at_any_file_call(runs: Runs, reference: Reference, site: Path, fault: str, lasting: bool) -> None:
    expected, whole = reference
    table: Counter[str] = Counter()
    for point in points(whole.calls, seed=len(fault) + lasting):
        ended = runs.run(Job(str(site), fault, point, whole.calls * 10 if lasting else point))
        where = f"{fault} at call {point}"
        assert ended.status in (0, REFUSED), f"{where}: {ended.output}"
        if ended.status == 0:
            assert result(site) == expected, where
        table["the run went on" if ended.status == 0 else "the run ended in an error of ours"] += 1
        ended = runs.run(Job(str(site)))
        assert ended.status == 0, f"after {where}: {ended.output}"
        assert result(site) == expected, f"after {where}"
        shutil.rmtree(site)
    print(f"\n{fault} {'from a call on' if lasting else 'once'}: {dict(table)}")
