"""Keys of products are ones that Prefect takes, whatever people call a folder; lineage ends; links lead to pages."""

import re

from hypothesis import given
from hypothesis import strategies as st
from prefect.assets import Asset

from image_longitudinal.tasks.engine.assets import Product, page_of, record_product

DIGEST = "0123456789abcdef" * 4
SCANS = Product("scans", "OCT 2024", DIGEST, {"images": 380}, (Product("folder", "OCT 2024"),))
MODEL = Product("model", "aabbccddeeff", figures={"recoverability": 0.98765}, parents=(SCANS,))


@given(st.text(), st.sampled_from(["", DIGEST]))
def test_every_name_gives_a_key_that_prefect_takes_and_nobody_reads_as_key_and_value(name: str, identity: str) -> None:
    key = Product("dataset", name, identity).key
    assert Asset(key=key).key == key
    assert re.fullmatch(r"dataset://[A-Za-z0-9._-]+(/[0-9a-f]{12})?", key)
    assert Product("dataset", name, identity).key == key


def test_a_key_has_kind_name_and_the_short_identity() -> None:
    assert SCANS.key == "scans://OCT-2024/0123456789ab"
    assert MODEL.key == "model://aabbccddeeff"


def test_the_lineage_is_the_product_and_all_before_it_once() -> None:
    data = Product("dataset", "demo", DIGEST, parents=(MODEL, SCANS))
    assert [one.key for one in data.lineage()] == [data.key, MODEL.key, SCANS.key, "folder://OCT-2024"]


def test_a_page_shows_figures_and_links_to_the_pages_of_what_the_product_was_made_from() -> None:
    page = page_of(MODEL)
    assert "| recoverability | 0.9877 |" in page
    assert "| [scans OCT 2024](/artifacts/key/scans-oct-2024-0123456789ab) | folder OCT 2024 |" in page
    assert "](x)" not in page_of(Product("dataset", "[a](x)", DIGEST))


def test_outside_a_run_nothing_is_told() -> None:
    record_product(MODEL)  # there is no server to tell
