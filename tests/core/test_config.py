"""The configuration: frozen, refuses what is unknown or impossible, and says the key, the expectation and what came."""

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from image_longitudinal.core.config import Config, OutcomesConfig
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.presets import validate_config


def refusal(**sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        validate_config(sections, where="a test")
    message = str(caught.value)
    assert message.startswith("the configuration is not valid: ")
    assert "(a test)" in message
    return message


def test_the_configuration_is_frozen_and_survives_its_own_json() -> None:
    config = Config()
    assert validate_config({}) == config
    assert validate_config(config.model_dump(mode="json")) == Config.model_validate_json(config.model_dump_json())
    with pytest.raises(ValidationError, match="frozen"):
        config.dataset.n_subjects = 3


def test_unknown_keys_are_refused_by_name() -> None:
    message = refusal(sead=1, vae={"stepz": 1}, outcomes={"doses": [{"amnt": 1}]})
    for key in ("sead", "vae.stepz", "doses.0.amnt"):
        assert f"{key}: unknown key" in message


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("dataset", "association", [0.5, 0.0], "greater than 0"), ("dataset", "association", [], "at least 1 item"),
        ("dataset", "association", [1.5], "less than or equal to 1"), ("dataset", "association", 0.5, "valid tuple"),
        ("dataset", "association", [float("nan")], "finite"), ("dataset", "n_subjects", 10.5, "valid integer"),
        ("dataset", "association", [0.5, 0.5], "differ from each other"),
        ("dataset", "shard_size", 0, "greater than or equal to 1"),
        ("dataset", "test_fraction", 1.0, "less than 1"), ("dataset", "name", "../up", "pattern"),
        ("dataset", "date", "yesterday", "pattern"), ("dataset", "eta_dims", [0, 0], "differ from each other"),
        ("dataset", "eta_dims", [-1], "greater than or equal to 0"), ("dataset", "eta_dims", "best", "auto"),
        ("generator", "scheduler", "plms", "'ddim'"), ("generator", "steps", 0, "greater than or equal to 1"),
        ("vae", "image_size", 100, "multiple of 32"), ("vae", "batch_size", 1, "greater than or equal to 2"),
        ("vae", "width", 0, "greater than 0"), ("vae", "learning_rate", float("inf"), "finite"),
        ("vae", "mixed_precision", "fp8", "'bf16'"), ("diffusion", "channels", [], "one level at least"),
        ("diffusion", "channels", [20], "multiple of 16"), ("diffusion", "ema_decay", 1.0, "less than 1"),
        ("outcomes", "times", [0.0, 1.0, 1.0], "ascend"), ("outcomes", "times", [-1.0, 0.0], "ascend"),
        ("outcomes", "doses", [{"amt": 0}], "greater than 0"),
    ],
)  # fmt: skip
def test_impossible_values_are_refused_with_key_expectation_and_value(
    section: str, key: str, value: Any, expected: str
) -> None:
    message = refusal(**{section: {key: value}})
    assert all(part in message for part in (section, key, expected))
    shown = value[-1] if isinstance(value, list) and value else value
    shown = shown.get("amt") if isinstance(shown, dict) else shown
    assert f"{shown}" in message.split("got ", 1)[1]


def test_splits_leave_training_data_and_a_seed_is_a_number_of_63_bits() -> None:
    for section in ("images", "dataset"):
        message = refusal(**{section: {"validation_fraction": 0.5, "test_fraction": 0.5}})
        assert f"{section}: validation_fraction + test_fraction must stay below 1, got 1" in message
    assert all("seed" in refusal(seed=seed) for seed in (-1, 2**63, "one", 1.5, None))


def test_every_problem_is_named_and_each_only_once() -> None:
    message = refusal(seed=-1, dataset={"shard_size": 0, "association": [2.0, 0.5]}, oops=1)
    assert message.count("got") == 3
    for part in ("seed: ", "dataset.shard_size: ", "dataset.association.0: ", "oops: unknown key"):
        assert message.count(part) == 1


@pytest.mark.parametrize(
    ("vae", "named"),
    [
        ({"dp": {}}, "give either epsilon or noise_multiplier"),
        ({"dp": {"epsilon": 3, "noise_multiplier": 1}}, "give either epsilon or noise_multiplier"),
        ({"dp": {"epsilon": 3}, "kind": "flattened"}, "dp needs kind=convolutional"),
        ({"dp": {"epsilon": 3}, "cycle_weight": 0.5}, "dp needs cycle_weight=0.0"),
        ({"dp": {"epsilon": 3}, "validate_every": 5, "mixed_precision": "bf16", "gradient_accumulation": 2},
         "dp needs gradient_accumulation=1, mixed_precision=no, validate_every=0"),
    ],
)  # fmt: skip
def test_private_training_refuses_what_would_not_be_private(vae: dict[str, Any], named: str) -> None:
    assert named in refusal(vae=vae)


def test_without_private_training_a_configuration_is_recorded_as_before() -> None:
    """Digests of models and data sets depend on it."""
    assert "dp" not in Config().recorded["vae"]
    private = validate_config({"vae": {"dp": {"epsilon": 3}}})
    assert private.recorded["vae"]["dp"]["epsilon"] == 3
    assert validate_config(private.model_dump(mode="json")) == private


def test_what_yaml_makes_of_unquoted_words_is_taken_back() -> None:
    """YAML 1.1 reads ``no`` as false and ``2024-05-01`` as a date."""
    text = "vae: {mixed_precision: no}\ndataset: {date: 2024-05-01}"
    config = validate_config(yaml.safe_load(text))
    assert (config.vae.mixed_precision, config.dataset.date) == ("no", "2024-05-01")


def test_a_form_can_be_drawn_from_the_configuration() -> None:
    """The Prefect UI shows the schema: every section is there and every field has a type or a choice."""
    schema = Config.model_json_schema()
    assert set(schema["properties"]) == set(Config.model_fields)
    for name, section in schema["$defs"].items():
        for field, form in section["properties"].items():
            assert form.keys() & {"type", "enum", "anyOf", "$ref", "allOf"}, f"{name}.{field}"


def test_doses_given_again_are_written_out_in_the_order_of_time():
    outcomes = OutcomesConfig(doses=({"time": 1, "amt": 2, "addl": 2, "ii": 4}, {"time": 3, "amt": 1, "cmt": 2}))
    with pytest.raises(ValidationError, match="time between them"):
        OutcomesConfig(doses=({"addl": 2},))
    assert outcomes.given == [(1, 2, 1, 0), (3, 1, 2, 0), (5, 2, 1, 0), (9, 2, 1, 0)]


def test_visits_may_move_only_as_far_as_their_order_holds():
    doses = ({"time": 0}, {"time": 1.2})
    assert OutcomesConfig(times=(0, 1, 2), doses=doses, jitter=0.09).irregular
    with pytest.raises(ValidationError, match=r"half the shortest time between visits and doses, 0\.2 / 2"):
        OutcomesConfig(times=(0, 1, 2), doses=doses, jitter=0.1)
    for wrong in ({"missed": 1.0}, {"dropout": -0.1}, {"jitter": -1}, {"doses": [{"rate": -1}]}):
        with pytest.raises(ValidationError, match=r"greater than or equal|less than"):
            OutcomesConfig(**wrong)
    assert not OutcomesConfig().irregular
