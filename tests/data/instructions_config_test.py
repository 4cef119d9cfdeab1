"""Tests of famjax.data.instructions_config."""

import pytest

from famjax.data.instructions_config import Instructions
from famjax.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_fraction": 2.0}, r"Instructions\.validation_fraction = 2\.0; allowed: 0 to 1"),
        ({"repeat_length": -1}, r"Instructions\.repeat_length = -1; allowed: 0 or more"),
        ({"repeat_weight": -0.1}, r"Instructions\.repeat_weight = -0\.1; allowed: 0\.0 or more"),
        ({"date": "yesterday"}, r"Instructions\.date = 'yesterday'; allowed: a day, as '2024-07-26'"),
        ({"prompt_weight": -0.1}, r"Instructions\.prompt_weight = -0\.1; allowed: 0\.0 or more"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    """Guards against a setting whose mistake shows after hours, or never."""
    with pytest.raises(ConfigError, match=message):
        Instructions(**changes)


def test_the_defaults_are_the_papers():
    """Guards against another recipe under the paper's name (arXiv 2404.09173, 3.1.1)."""
    config = Instructions()
    assert (config.repeat_length, config.repeat_weight, config.prompt_weight) == (256, 0.1, 0.0)
    assert config.repeat_prompt == "[repeat random segment]:"
