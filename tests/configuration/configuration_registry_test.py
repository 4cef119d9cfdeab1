"""famjax.configuration.registry: what messages say of a setting comes from its docstring."""

import dataclasses

import pytest

from famjax.configuration.bindings import find_configurable
from famjax.configuration.registry import configurable_names, parameter_meanings, parameter_names, parameter_types
from famjax.data.config import HuggingFaceVocabulary
from famjax.training.config import Adafactor


def test_meanings_come_from_the_class_and_its_bases():
    """A missing setting without its meaning sends the user to the sources."""
    meanings = parameter_meanings(Adafactor)
    assert meanings["beta1"] == "decay of the first moment"
    assert meanings["schedule"] == "the learning rate"
    assert parameter_meanings(HuggingFaceVocabulary)["bos_token"].startswith("its special tokens")


@pytest.mark.parametrize("name", configurable_names())
def test_every_required_field_has_a_meaning_and_a_type(name):
    """A field added without a line in its docstring would be reported as missing without a word on what it is."""
    cls = find_configurable(name)
    assert cls is not None
    required = [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    assert set(required) <= set(parameter_meanings(cls))
    assert set(parameter_names(cls)) <= set(parameter_types(cls))
