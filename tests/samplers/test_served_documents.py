"""The page on sampling says what the code says: keys with range and default, settings, reasons to end."""

import pytest

from posttrain.core.sampling import SamplingSettings
from posttrain.samplers.served_answers import FINISH_REASONS
from posttrain.samplers.served_settings import Prices, RequestLimits, ServedSettings
from tests.contracts.reference import describe_key
from tests.contracts.sources import REPOSITORY
from tests.contracts.test_reference import column, read_tables

PAGE = REPOSITORY / "docs" / "sampling.md"


@pytest.mark.parametrize("kind", [ServedSettings, RequestLimits, Prices])
def test_every_key_is_documented_with_its_real_range_and_default(kind):
    rows = read_tables(PAGE)[kind.__name__]
    assert [row[:3] for row in rows] == [list(describe_key(name, field)) for name, field in kind.model_fields.items()]
    marked = [row[0].strip("`") for row in rows if row[3].startswith("°")]
    extras = {name: field.json_schema_extra for name, field in kind.model_fields.items()}
    assert marked == [name for name, extra in extras.items() if extra == {"identity": False}]


def test_every_setting_and_every_end_of_an_answer_is_documented():
    named = column(PAGE, "sampling setting")
    assert {field for field in SamplingSettings.__dataclass_fields__ if field not in named} == {"num_samples"}
    assert set(column(PAGE, "the endpoint's `finish_reason`")) == set(FINISH_REASONS)
