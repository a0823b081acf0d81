import importlib

import pytest

import classify


def test_exports_are_sorted_and_there():
    assert classify.__all__ == sorted(classify.__all__) == sorted(classify._LAZY)
    for name in classify.__all__:
        assert getattr(classify, name) is getattr(importlib.import_module(classify._LAZY[name]), name)


def test_no_export_hides_a_module():
    # `from classify import compare` would give the function or the module, by what was imported before.
    for name in classify.__all__:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(f"classify.{name}")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'classify' has no attribute 'magic'"):
        classify.magic  # noqa: B018
