import subprocess
import sys

import pytest

import cache


def test_exported_names_are_sorted_and_there():
    assert cache.__all__ == sorted(cache.__all__)
    assert all(getattr(cache, name).__name__ == name for name in cache.__all__)


def test_exported_names_survive_the_import_of_every_module():
    import cache.merging
    import cache.reader
    import cache.writer

    assert callable(cache.merge)
    assert cache.merge is cache.merging.merge


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'cache' has no attribute 'Cache'"):
        _ = cache.Cache


@pytest.mark.parametrize("module", ["cache.schema", "cache.table", "cache.durable"])
def test_nouns_come_without_h5py(module):
    code = f"import sys, {module}; print('h5py' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
