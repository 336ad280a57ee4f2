import pytest
from pydantic import ValidationError

from fend.images import DecodeLimits, InputSpec


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 2},
        {"height_px": 0},
        {"width_px": 10**6},
        {"unknown": 1},
        {"polarity": "light_on_dark", "background": "white"},
    ],
)
def test_impossible_specs_are_refused(changes):
    with pytest.raises(ValidationError):
        InputSpec.model_validate({"channels": 1, "height_px": 28, "width_px": 28, **changes})


def test_spec_survives_json():
    spec = InputSpec(channels=1, height_px=28, width_px=28, polarity="light_on_dark")

    assert InputSpec.model_validate_json(spec.model_dump_json()) == spec


def test_limits_must_be_positive():
    with pytest.raises(ValueError, match="at least 1"):
        DecodeLimits(max_pixels=0)


def test_an_input_says_no_more_than_it_did_where_nothing_new_is_asked():
    assert set(InputSpec(channels=3, height_px=28, width_px=28).model_dump()) == {
        "channels", "height_px", "width_px", "background", "resize", "polarity",
    }  # fmt: skip
    for wrong in ({"crop_from_px": 32}, {"resize": "crop", "crop_from_px": 27}):
        with pytest.raises(ValueError, match="crop_from_px"):
            InputSpec(channels=3, height_px=28, width_px=28, **wrong)
