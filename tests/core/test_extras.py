"""A missing optional package is an error that names its extra; any other failed import stays what it is."""

import pytest

from image_longitudinal.core.extras import MissingExtraError, naming_missing_extra


@pytest.mark.parametrize(
    ("module", "extra"),
    [("torch", "pipeline"), ("prefect.client", "pipeline"), ("prefect_dask", "dask"), ("s3fs", "s3"), ("bm3d", "bm3d")],
)
def test_a_missing_package_names_its_extra(module: str, extra: str) -> None:
    with (
        pytest.raises(MissingExtraError, match=rf"pip install 'image-longitudinal\[{extra}\]'"),
        naming_missing_extra(),
    ):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)


def test_another_failed_import_is_not_touched() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), naming_missing_extra():
        import no_such_module  # noqa: F401
