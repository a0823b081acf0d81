"""Bad input to extraction: one clear sentence, the right exit status, nothing lost, no traceback."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile
import transformers

import cli
from cache import CacheError, FeatureCache
from sslfeat.encoder import Encoder
from tests.conftest import Outcome, make_tone, write_wav

Call = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


# What the corpus is


@pytest.mark.parametrize("command", ["extract", "check"])
def test_a_folder_that_is_no_corpus(fails, command, corpus_dir, tmp_path):
    output = ["-o", tmp_path / "out.h5"] if command == "extract" else []
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("nothing to hear")
    one = min(corpus_dir.iterdir())
    for folder, match in {
        tmp_path / "missing": r"no such folder\.",
        tmp_path / "empty": r"no audio in it \(.*\.wav.*\)\. Give the folder that holds the corpus\.",
        tmp_path / "notes": r"no audio in it ",
        one: r"a file, and a corpus is a folder\. Give the folder that holds its audio, or a table of it as manifest\.",
    }.items():
        fails(command, folder, *output, match=f"{re.escape(str(folder))}: {match}")
    wrong = r"no file named as in ravdess \(Actor_01/.*\)\. The names look like 03a\d\d.*\. They fit emodb\."
    fails(command, corpus_dir, *output, "--corpus", "ravdess", match=f"{re.escape(str(corpus_dir))}: {wrong}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "notes"]


def test_names_that_fit_no_corpus(fails, tmp_path):
    write_wav(tmp_path / "own" / "hello.wav", make_tone(0.2, seed=0))
    match = r".*own: can't tell which corpus this is\. The names \(hello\.wav\) fit none that is known: emodb, .*by a manifest, a pattern, or folders named by label\."
    fails("extract", tmp_path / "own", "-o", tmp_path / "out.h5", match=match)


def test_no_corpus_at_all_is_a_usage_error(fails, tmp_path):
    match = r"a corpus folder or a manifest is needed\."
    fails("extract", "-o", tmp_path / "out.h5", match=match, status=2)


def test_an_unknown_corpus_names_those_there_are(fails, corpus_dir, tmp_path):
    match = r"no corpus 'emo', the nearest is 'nemo'; known are emodb, ravdess, shemo, savee, aesdd, .*\."
    fails("corpora", "emo", match=match, status=2)
    fails("extract", corpus_dir, "--corpus", "emo", "-o", tmp_path / "out.h5", match=match)


# Which encoder


def test_a_model_that_can_not_be_had(fails, corpus_dir, tmp_path):
    (tmp_path / "folder").mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "wav2vec2"}')
    text = tmp_path / "text"
    transformers.BertConfig(num_hidden_layers=1, hidden_size=12, vocab_size=9).save_pretrained(text)
    for model, match in {
        "nobody/no-such-encoder": (
            r"no such model on the hub, or the hub can't be reached and no copy is in its local cache; "
            r"check the name and the network, or give a local directory \(.*\)"
        ),
        tmp_path / "folder": (
            r"a model directory holds config\.json; this one holds none\. Give the folder that save_pretrained wrote\."
        ),
        tmp_path
        / "missing": r"no such directory; --model takes a hub id, as facebook/wav2vec2-base, or a directory",
        broken: r"transformers can't load a model from this directory \(.*\)",
        text: r"transformers can't load a model from this directory \(.*\)",
    }.items():
        done = fails(
            "extract", corpus_dir, "-o", tmp_path / "out.h5", "--model", model,
            match=f"{re.escape(str(model))}: {match}",
        )  # fmt: skip
        assert len(done.err.splitlines()[-1]) < 600
    assert not list(tmp_path.glob("out.h5*"))


@pytest.mark.parametrize(
    ("options", "match", "status"),
    [
        (["--layers", "six"], r"Invalid value for '--layers': layers are all, a range as 0-12, or a list as 6,9\. Got 'six' instead\.", 2),
        (["--layers", "9-6"], r"Invalid value for '--layers': .* Got '9-6' instead\.", 2),
        (["--layers", "-1"], r"Invalid value for '--layers': .* Got '-1' instead\.", 2),
        (["--layers", "0-99999999999"], r"Invalid value for '--layers': .* Got '0-99999999999' instead\.", 2),
        (["--layers", "1,3"], r"layers must be in 0\.\.2, at least one\. Got 3 instead\.", 1),
        (["--layers", "0-12"], r"layers must be in 0\.\.2, at least one\. Got 3, 4, 5, \.\.\. instead\.", 1),
        (["--pooling", "mean,median"], r"Invalid value for '--pooling': pooling is out of mean, std, max, min, joined by commas\. Got 'median' instead\.", 2),
        (["--precision", "float8"], r"Invalid value for '--precision': 'float8' is not one of 'float32', 'bfloat16', 'float16'\.", 2),
        (["--device", "tpu:x"], r"Invalid value for '--device': a device is auto, cpu, mps, cuda or cuda:N\. Got 'tpu:x' instead\.", 2),
        (["--batch-seconds", "0"], r"Invalid value for '--batch-seconds': 0\.0 is not in the range x>0\.", 2),
        (["--jobs", "0"], r"Invalid value for '--jobs': 0 is not in the range x>=1\.", 2),
    ],
)  # fmt: skip
def test_extract_options_that_make_no_sense(
    fails, corpus_dir, model_directory, tmp_path, options, match, status
):
    output = tmp_path / "out.h5"
    fails(
        "extract", corpus_dir, "-o", output, "--model", model_directory, *options, match=match, status=status
    )
    assert not list(tmp_path.iterdir())


# Audio


def test_audio_that_is_no_use_is_left_out_and_told(sslfeat: Call, corpus_dir, model_directory, tmp_path):
    folder = shutil.copytree(corpus_dir, tmp_path / "wav")
    files = sorted(folder.iterdir())
    files[0].write_bytes(b"not audio, whatever its name says")
    files[1].write_bytes(files[1].read_bytes()[:-4000])
    files[2].write_bytes(b"")
    write_wav(files[3], np.zeros(0))
    write_wav(files[4], np.zeros(8000))
    soundfile.write(
        files[5], np.where(np.arange(8000) == 4000, np.nan, make_tone(0.5, seed=1)), 16_000, "FLOAT"
    )
    write_wav(files[6], make_tone(0.03, seed=2)[:399])
    write_wav(files[7], np.stack([make_tone(0.3, seed=seed) for seed in range(8)], 1) / 8)
    write_wav(files[8], make_tone(0.3, seed=9, sample_rate=192_000), sample_rate=192_000)
    write_wav(files[9], make_tone(0.025, seed=10))
    why = {
        0: "no audio format that can be read. Convert it to wav or flac, or leave it out.",
        1: "truncated, its header promises more than the file holds. Fetch it again.",
        2: "an empty file (0 bytes). Fetch it again or leave it out.",
        3: "no audio in it (0 samples). Fetch it again or leave it out.",
        4: "silent (0.50 s without a change). Fetch it again or leave it out.",
        5: "holds samples that are NaN or infinite. Export it again from its source.",
        6: "399 samples at 16000 Hz, at least 400 are needed (25 ms). Leave it out.",
    }
    path = tmp_path / "out.h5"
    arguments = ["extract", folder, "-o", path, "--model", model_directory, "--device", "cpu"]
    done = sslfeat(*arguments)
    assert (done.status, done.out) == (cli.PARTIAL_SUCCESS, f"{path}\n")
    told = [f"  {files[number].name}: {reason}" for number, reason in why.items()]
    assert done.err.splitlines()[-9:-1] == ["failed, left out:", *told]
    assert ": 17 utterances written (" in done.err.splitlines()[-1]
    assert done.err.endswith("7 failed, 0 duplicates.\n")
    with FeatureCache(path) as cache:
        assert {one.path: one.reason for one in cache.failures} == {files[i].name: why[i] for i in why}
        assert cache.utterance_ids.tolist() == [f"emodb/{file.stem}" for file in files[7:]]
        assert [cache.row(index).num_samples for index in range(3)] == [4800, 4800, 400]
        assert np.isfinite(cache.features(2, "std")).all()

    kept = path.read_bytes()
    again = sslfeat(*arguments)
    assert again.status == 3
    assert again.err.splitlines()[-1] == f"{path}: nothing written, 17 there already; 7 failed, 0 duplicates."
    assert path.read_bytes() == kept

    shutil.copy(corpus_dir / files[0].name, files[0])
    mended = sslfeat(*arguments)
    assert ": 1 utterance written (" in mended.err
    assert "17 there already; 6 failed" in mended.err


def test_a_corpus_without_any_usable_audio(sslfeat: Call, fails, model_directory, tmp_path):
    folder, path = tmp_path / "wav", tmp_path / "out.h5"
    for stem in ("03a01Fa", "03a01Nc"):
        write_wav(folder / f"{stem}.wav", np.zeros(8000))
    done = sslfeat("extract", folder, "-o", path, "--model", model_directory)
    assert (done.status, done.out) == (3, f"{path}\n")
    assert done.err.endswith(f"{path}: nothing written; 2 failed, 0 duplicates.\n")
    assert "2" in sslfeat("info", path).out
    fails("fit", path, "-o", tmp_path / "results", match=r".*out\.h5: holds no utterance; .*`sslfeat info`")


def test_copies_are_told_and_are_no_failure(sslfeat: Call, corpus_dir, model_directory, tmp_path):
    folder = shutil.copytree(corpus_dir, tmp_path / "wav")
    first, last = min(folder.iterdir()), max(folder.glob("*W?.wav"))
    shutil.copy(first, last)
    done = sslfeat("extract", folder, "-o", tmp_path / "out.h5", "--model", model_directory, "--quiet")
    assert done.status == 0
    assert "duplicates, left out:" in done.err
    clash = (
        f"  emodb/{last.stem} has the samples of emodb/{first.stem}, but is labelled anger and not happiness"
    )
    assert clash in done.err.splitlines()
    assert done.err.endswith("0 failed, 1 duplicate.\n")


# Caches


def damaged_caches(folder: Path, cache_path: Path) -> dict[Path, str]:
    """Files that are no usable cache, and what is said of each."""
    folder.mkdir()
    text = folder / "text.h5"
    text.write_text("no cache")
    empty = folder / "empty.h5"
    empty.touch()
    cut = folder / "cut.h5"
    cut.write_bytes(cache_path.read_bytes()[:-5000])
    foreign = folder / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["x"] = 1
    newer = Path(shutil.copy(cache_path, folder / "newer.h5"))
    with h5py.File(newer, "a") as file:
        file.attrs["schema_version"] = 99
    return {
        text: r"not an HDF5 file, so not a feature cache\.",
        empty: r"not an HDF5 file, so not a feature cache\.",
        cut: r"cut short; restore the file or extract again\.",
        foreign: r"not a feature cache; its format isn't 'sslfeat-cache'\.",
        newer: r"written by schema 99; this version reads 1\.\.\d; upgrade sslfeat\.",
    }


def test_what_is_no_cache_is_refused_by_every_command_and_left_alone(
    fails, cache_path, corpus_dir, model_directory, results_dir, tmp_path
):
    for path, sentence in damaged_caches(tmp_path / "bad", cache_path).items():
        before = path.read_bytes()
        match = f"{re.escape(str(path))}: {sentence}"
        fails("info", path, match=match)
        fails("fit", path, "-o", tmp_path / "results", match=match)
        fails("merge", tmp_path / "joined.h5", cache_path, path, match=match)
        fails("predict", results_dir / "bundle", "--cache", path, match=match)
        remedy = r" To replace it, overwrite it\."
        fails("extract", corpus_dir, "-o", path, "--model", model_directory, match=match + remedy)
        assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]
    assert len(list((tmp_path / "bad").iterdir())) == 5


@pytest.mark.parametrize(
    ("name", "match"), [("missing.h5", "No such file or directory"), ("", "Is a directory")]
)
def test_a_cache_that_is_not_there(fails, tmp_path, name, match):
    path = tmp_path / name
    fails("info", path, match=rf"{re.escape(str(path))}: {match}\.")
    fails("fit", path, "-o", tmp_path / "results", match=rf"{re.escape(str(path))}: {match}\.")
    assert not list(tmp_path.iterdir())


def test_a_cache_of_another_spec_names_the_fields_and_stays(
    fails, sslfeat: Call, cache_path, corpus_dir, model_directory, tmp_path
):
    path = Path(shutil.copy(cache_path, tmp_path / "out.h5"))
    options = ["--model", model_directory, "--layers", "1", "--precision", "bfloat16", "--device", "cpu"]
    match = (
        r".*out\.h5: made under another spec: layers \(0, 1, 2\) \(there\) vs \(1,\) \(asked\); "
        r"precision 'float32' \(there\) vs 'bfloat16' \(asked\)\. Choose another name, or overwrite it\."
    )
    fails("extract", corpus_dir, "-o", path, *options, match=match)
    assert path.read_bytes() == cache_path.read_bytes()
    assert sslfeat("extract", corpus_dir, "-o", path, *options, "--overwrite", "--quiet").status == 0
    with FeatureCache(path) as cache:
        assert (cache.layers, cache.spec.precision) == ((1,), "bfloat16")


# Where the output goes


def test_extract_into_a_place_that_takes_no_file(fails, corpus_dir, model_directory, tmp_path):
    (tmp_path / "folder").mkdir()
    for output, match in {
        tmp_path / "missing" / "out.h5": r"the folder .*missing is not there; make it first\.",
        tmp_path / "folder": r"a folder has this name; give a file's, as emodb\.h5\.",
        Path("/proc/out.h5"): r"can't be written \(.*\)\.",
    }.items():
        fails(
            "extract", corpus_dir, "-o", output, "--model", model_directory,
            match=f"{re.escape(str(output))}: {match}",
        )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


# Interruption, and errors of our own


def test_an_interrupted_extraction_goes_on(
    sslfeat: Call, cache_path, corpus_dir, model_directory, tmp_path, monkeypatch
):
    path = tmp_path / "out.h5"
    arguments = ["extract", corpus_dir, "-o", path, "--model", model_directory, "--device", "cpu"]
    arguments += ["--batch-seconds", 1, "--quiet"]
    encode, calls = Encoder.encode, []

    def interrupted(self, waveforms):
        calls.append(len(waveforms))
        if len(calls) > 3:
            raise KeyboardInterrupt
        return encode(self, waveforms)

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "encode", interrupted)
        stopped = sslfeat(*arguments)
    assert (stopped.status, stopped.out) == (cli.INTERRUPTED, "")
    assert stopped.err.splitlines()[-1] == (
        "interrupted; what was finished is kept, and the same command goes on from there."
    )
    done = sslfeat(*arguments)
    kept = sum(calls[:3])
    assert 0 < kept < 24
    assert done.status == 0
    assert f": {24 - kept} utterances written (" in done.err
    assert f", {kept} there already; 0 failed" in done.err
    assert [file.name for file in tmp_path.iterdir()] == ["out.h5"]
    with FeatureCache(path) as resumed, FeatureCache(cache_path) as whole:
        assert resumed.utterance_ids.tolist() == whole.utterance_ids.tolist()
        assert np.allclose(resumed.features(2, "mean"), whole.features(2, "mean"), atol=2e-6)


def test_another_interrupted_command_promises_nothing(sslfeat: Call, cache_path, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(FeatureCache, "summary", interrupt)
    assert sslfeat("info", cache_path) == (130, "", "interrupted.\n")


def test_debug_shows_where_an_error_came_from(sslfeat: Call, tmp_path):
    with pytest.raises(CacheError, match=r"missing\.h5: No such file or directory") as raised:
        sslfeat("--debug", "info", tmp_path / "missing.h5")
    assert "cache/store.py" in {"/".join(entry.path.parts[-2:]) for entry in raised.traceback}


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (KeyError("layer"), "unexpected KeyError: 'layer'"),
        (MemoryError(), "unexpected MemoryError: "),
        (ValueError("no."), "no."),
    ],
)
def test_an_error_of_ours_is_a_sentence_too(sslfeat: Call, cache_path, monkeypatch, error, sentence):
    error.add_note("while counting")

    def fail(self):
        raise error

    monkeypatch.setattr(FeatureCache, "summary", fail)
    assert sslfeat("info", cache_path) == (1, "", f"Error: {sentence} while counting\n")


def test_an_unknown_command_or_option_is_a_usage_error(fails):
    fails("extrakt", match=r"No such command 'extrakt'\.", status=2)
    fails("info", "--jsn", "x.h5", match=r"No such option '--jsn'\. Did you mean '--json'\?", status=2)
