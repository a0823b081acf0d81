import dataclasses
import hashlib
import json

import pytest

from cache import CacheError, FeatureSpec, SpecMismatchError, Utterance
from cache.schema import describe_differences


def test_equal_requests_have_one_spelling(make_spec):
    spelled = make_spec(layers=(2, 0, 2), pooling=("std", "mean", "std"))
    assert spelled == make_spec(layers=(0, 2), pooling=("mean", "std"))
    assert spelled.fingerprint == make_spec(layers=(0, 2), pooling=("mean", "std")).fingerprint


def test_fingerprint_is_the_digest_of_the_canonical_text(make_spec):
    spec = make_spec()
    fields = dataclasses.asdict(spec)
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    assert spec.to_json() == text
    assert spec.fingerprint == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(FeatureSpec)])
def test_every_field_changes_the_fingerprint(make_spec, field):
    spec = make_spec()
    other = {"layers": (1,), "pooling": ("max",), "dtype": "float16", "num_hidden_layers": 3}
    changes = {bool: lambda value: not value, int: lambda value: value + 1, float: lambda value: value + 1.0}
    value = getattr(spec, field)
    changed = other.get(field, changes.get(type(value), lambda value: f"{value}x")(value))
    assert make_spec(**{field: changed}).fingerprint != spec.fingerprint


def test_text_reads_back(make_spec):
    spec = make_spec(model_id="mödel", chunk_seconds=30.5, frames=True)
    assert FeatureSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("text", ["", "[1]", "{}", "null", '{"layers": 3, "pooling": []}', '{"a":'])
def test_other_text_is_refused(text):
    with pytest.raises(CacheError, match="the feature spec can't be read"):
        FeatureSpec.from_json(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "4"}, r"hidden_size must be int\. Got '4' instead\."),
        ({"hidden_size": 4.0}, r"hidden_size must be int\. Got 4\.0 instead\."),
        ({"frames": 1}, r"frames must be bool\. Got 1 instead\."),
        ({"layers": [True]}, r"layers must be int\. Got True instead\."),
        ({"layers": "12"}, r"layers must be int\. Got '1' instead\."),
        ({"pooling": [["mean"]]}, r"pooling must be str\. Got \['mean'\] instead\."),
        ({"model_id": ["x"] * 99}, r"model_id must be str\. Got \[.{,79} instead\."),
        ({"chunk_seconds": float("nan")}, r"chunk_seconds must be float\. Got nan instead\."),
        ({"chunk_seconds": 10**400}, r"the feature spec can't be read"),
        ({"revision": None}, r"revision must be str\. Got None instead\."),
    ],
)
def test_a_field_of_another_type_is_refused(make_spec, changes, message):
    text = json.dumps(json.loads(make_spec().to_json()) | changes)
    with pytest.raises(CacheError, match=message):
        FeatureSpec.from_json(text)


def test_endless_brackets_are_refused():
    with pytest.raises(CacheError, match="the feature spec can't be read"):
        FeatureSpec.from_json("[" * 100_000)


def test_unknown_field_is_refused(make_spec):
    text = json.dumps(json.loads(make_spec().to_json()) | {"colour": "red"})
    with pytest.raises(CacheError, match="colour"):
        FeatureSpec.from_json(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pooling": ("median", "mean")},
            r"pooling must be out of mean, std, max, min\. Got median instead\.",
        ),
        ({"dtype": "float64"}, r"dtype must be one of float32, float16\. Got 'float64' instead\."),
        ({"layers": (0, 3)}, r"layers must be in 0\.\.2, at least one\. Got 3 instead\."),
        ({"layers": (-1,)}, r"layers must be in 0\.\.2, at least one\. Got -1 instead\."),
        ({"layers": ()}, r"layers must be in 0\.\.2, at least one\. Got none instead\."),
    ],
)
def test_impossible_specs_are_refused(make_spec, changes, message):
    with pytest.raises(ValueError, match=message):
        make_spec(**changes)


def test_differences_name_the_fields(make_spec):
    mine, theirs = make_spec(), make_spec(precision="bfloat16", tf32=True, model_id="other")
    found = mine.differences(theirs, ignore={"model_id"})
    assert found == {"precision": ("float32", "bfloat16"), "tf32": (False, True)}
    assert describe_differences(found, mine="cache", theirs="request", limit=1) == (
        "precision 'float32' (cache) vs 'bfloat16' (request); and 1 more"
    )
    assert describe_differences(found, mine="a", theirs="b").count(";") == 1


def test_a_mismatch_is_a_cache_error_is_a_value_error():
    assert issubclass(SpecMismatchError, CacheError)
    assert issubclass(CacheError, ValueError)


def test_nouns_are_values():
    one = Utterance(id="a", path="a.wav")
    assert one == Utterance(id="a", path="a.wav")
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.id = "b"
