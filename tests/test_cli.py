"""From a folder of speech to a cache, and what can be asked of both, by the commands that a user types."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

import cli
from cache import FeatureCache
from sslfeat.audio import decode
from sslfeat.encoder import Encoder
from tests.conftest import Outcome, make_tone, write_wav

Call = Callable[..., Outcome]


# extract


def test_extract_writes_a_row_for_each_utterance(extracted, corpus_dir):
    path, done = extracted
    stems = sorted(file.stem for file in corpus_dir.iterdir())
    assert len(stems) == 24
    assert (done.status, done.out) == (0, f"{path}\n")
    with FeatureCache(path) as cache:
        assert cache.utterance_ids.tolist() == [f"emodb/{stem}" for stem in stems]
        codes = {"W": "anger", "F": "happiness", "N": "neutral"}
        assert cache.labels.tolist() == [codes[stem[5]] for stem in stems]
        assert cache.speakers.tolist() == [f"emodb:{stem[:2]}" for stem in stems]
        assert cache.complete
        assert (cache.spec.layers, cache.spec.pooling) == ((0, 1, 2), ("mean", "std"))
        assert (cache.spec.revision, cache.spec.dtype, cache.spec.frames) == ("local", "float32", False)
        assert cache.verify() == []


def test_extract_stores_what_the_encoder_gives_alone(cache_path, corpus_dir, model_directory):
    encoder = Encoder.load(str(model_directory), device="cpu")
    with FeatureCache(cache_path) as cache:
        for index in (0, 13, 23):
            states = encoder.hidden_states(decode(corpus_dir / cache.row(index).utterance.path).waveform)
            for layer in (0, 1, 2):
                assert np.allclose(cache.features(layer, "mean")[index], states[layer].mean(0), atol=2e-6)
                assert np.allclose(cache.features(layer, "std")[index], states[layer].std(0), atol=2e-6)


def test_extract_tells_its_way_in_plain_lines_on_standard_error(extracted, corpus_dir):
    path, done = extracted
    told = done.err.splitlines()
    assert told[0] == (
        f"{corpus_dir}: emodb (guessed from the names; say --corpus emodb to be sure), "
        "24 utterances, 4 speakers, 3 labels."
    )
    assert "note: 24 utterances, emodb has 535. Missing: " in done.err
    assert re.search(
        r"^encoder tiny-wav2vec2-randomly-initialised: 3 layers of 32, float32 on cpu\.$", done.err, re.M
    )
    progress = [line for line in told if line.startswith("24/24 utterances, ")]
    assert len(progress) == 1
    assert re.fullmatch(r"24/24 utterances, \d+ s of audio per second, 0 failed", progress[0])
    summary = rf"{re.escape(str(path))}: 24 utterances written \(8 s of audio, \d+ x real time\); 0 failed, 0 duplicates\."
    assert re.fullmatch(summary, told[-1])
    assert not re.search(r"[\x1b\r]", done.err)


def test_extract_again_has_nothing_to_do_and_changes_no_byte(
    sslfeat: Call, cache_path, corpus_dir, model_directory, tmp_path
):
    path = shutil.copy(cache_path, tmp_path / "emodb.h5")
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    done = sslfeat("extract", corpus_dir, "-o", path, "--model", model_directory, "--corpus", "emodb")
    assert (done.status, done.out) == (0, f"{path}\n")
    assert "guessed" not in done.err
    assert f"{path}: nothing left to do, 24 there already; 0 failed, 0 duplicates." in done.err
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [file.name for file in tmp_path.iterdir()] == ["emodb.h5"]


def test_extract_does_only_what_is_new(sslfeat: Call, cache_path, corpus_dir, model_directory, tmp_path):
    path = shutil.copy(cache_path, tmp_path / "emodb.h5")
    grown = shutil.copytree(corpus_dir, tmp_path / "wav")
    write_wav(grown / "11a01Aa.wav", make_tone(0.3, seed=5))
    done = sslfeat("extract", grown, "-o", path, "--model", model_directory, "--quiet")
    assert done.status == 0
    assert ": 1 utterance written (0 s of audio, " in done.err
    assert ", 24 there already; 0 failed" in done.err
    with FeatureCache(cache_path) as old, FeatureCache(path) as new:
        assert new.utterance_ids.tolist() == [*old.utterance_ids.tolist(), "emodb/11a01Aa"]
        assert np.array_equal(new.features(2, "mean")[:24], old.features(2, "mean"))


def test_extract_options_reach_the_cache(sslfeat: Call, corpus_dir, model_directory, tmp_path):
    few = tmp_path / "wav"
    few.mkdir()
    for file in sorted(corpus_dir.iterdir())[:3]:
        shutil.copy(file, few)
    path = tmp_path / "out.h5"
    options = [
        "--layers",
        "2,1-1",
        "--pooling",
        "max, min",
        "--frames",
        "--dtype",
        "float16",
        "--precision",
        "bfloat16",
    ]
    options += ["--batch-seconds", "0.5", "--jobs", "1", "--device", "cpu", "--quiet", "--corpus", "emodb"]
    done = sslfeat("extract", few, "-o", path, "--model", model_directory, *options)
    assert (done.status, done.out) == (0, f"{path}\n")
    assert not re.search(r"^\d+/\d+ ", done.err, re.M)
    with FeatureCache(path) as cache:
        spec = cache.spec
        assert (spec.layers, spec.pooling, spec.frames) == ((1, 2), ("max", "min"), True)
        assert (spec.dtype, spec.precision) == ("float16", "bfloat16")
        frames = cache.frames(cache.utterance_ids[0], 2)
        assert np.array_equal(frames.max(0), cache.features(2, "max")[0])


def test_extract_and_check_take_one_channel(sslfeat: Call, cache_path, corpus_dir, model_directory, tmp_path):
    for file in sorted(corpus_dir.iterdir())[:3]:
        mono = decode(file).waveform
        write_wav(tmp_path / "wav" / file.name, np.stack([-mono, mono], axis=1))
    asked = (tmp_path / "wav", "--corpus", "emodb", "--quiet")
    path = tmp_path / "right.h5"
    done = sslfeat(
        "extract", *asked, "-o", path, "--model", model_directory, "--device", "cpu", "--channel", "1"
    )
    assert done.status == 0
    with FeatureCache(path) as right, FeatureCache(cache_path) as mono:
        assert right.spec.channels == "1"
        assert np.allclose(right.features(2, "mean"), mono.features(2, "mean")[:3], atol=1e-3)
    again = sslfeat("extract", *asked, "-o", path, "--model", model_directory, "--device", "cpu")
    assert again.status == 1
    assert "channels '1' (there) vs 'mean' (asked)" in again.err
    assert "silent" in sslfeat("check", *asked).out
    assert "silent" not in sslfeat("check", *asked, "--channel", "1").out
    wrong = sslfeat("check", *asked, "--channel", "left")
    assert wrong.status == 2
    assert "a channel is mean, or a number from 0. Got 'left' instead." in wrong.err


# info


def test_info_as_json_is_the_summary(sslfeat: Call, cache_path):
    done = sslfeat("info", cache_path, "--json")
    with FeatureCache(cache_path) as cache:
        assert json.loads(done.out) == json.loads(json.dumps(cache.summary()))
        assert json.loads(done.out)["fingerprint"] == cache.fingerprint
    assert (done.status, done.err) == (0, "")


def test_info_shows_spec_fingerprint_and_labels_by_speaker(sslfeat: Call, cache_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    done = sslfeat("info", cache_path)
    with FeatureCache(cache_path) as cache:
        fingerprint, weights = cache.fingerprint, cache.spec.weights_hash
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in done.out.splitlines()]
    assert (done.status, done.err) == (0, "")
    assert ["utterances", "24"] in rows
    assert ["fingerprint", fingerprint] in rows
    assert ["weights_hash", weights] in rows
    assert ["speaker", "anger", "happiness", "neutral", "all"] in [
        [cell.strip() for cell in line.strip("┃").split("┃")] for line in done.out.splitlines()
    ]
    assert ["emodb:09", "2", "2", "2", "6"] in rows
    assert ["all", "8", "8", "8", "24"] in rows


# merge, check, corpora


def test_merge_of_two_halves_is_the_whole(sslfeat: Call, cache_path, corpus_dir, model_directory, tmp_path):
    files = sorted(corpus_dir.iterdir())
    halves = []
    for number, half in enumerate((files[::2], files[1::2])):
        folder = tmp_path / f"half{number}"
        folder.mkdir()
        for file in half:
            shutil.copy2(file, folder)
        halves.append(tmp_path / f"half{number}.h5")
        options = ["--model", model_directory, "--quiet", "--device", "cpu"]
        assert sslfeat("extract", folder, "-o", halves[-1], *options).status == 0
    done = sslfeat("merge", tmp_path / "both.h5", *halves)
    assert (done.status, done.out, done.err) == (0, f"{tmp_path / 'both.h5'}\n", "")
    with FeatureCache(cache_path) as whole, FeatureCache(tmp_path / "both.h5") as joined:
        assert joined.fingerprint == whole.fingerprint
        assert joined.utterance_ids.tolist() == whole.utterance_ids.tolist()
        assert joined.labels.tolist() == whole.labels.tolist()
        for layer in whole.layers:
            assert np.allclose(joined.features(layer, "std"), whole.features(layer, "std"), atol=2e-6)


def test_check_tells_what_is_off(sslfeat: Call, corpus_dir, tmp_path):
    folder = shutil.copytree(corpus_dir, tmp_path / "wav")
    files = sorted(folder.iterdir())
    shutil.copy(files[0], files[6])
    files[9].write_bytes(files[9].read_bytes()[:-2000])
    done = sslfeat("check", folder, "--corpus", "emodb")
    assert done.status == 3
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in done.out.splitlines()]
    assert ["utterances", "24", "535", "off"] in rows
    for fact in (
        ["failures", "1"],
        ["duplicates", "1"],
        ["missing names", "511"],
        ["verdict", "something is off"],
    ):
        assert [*fact, "", "off"] in rows
    assert f"emodb/{files[6].stem}" in done.out
    assert "truncated" in done.out
    assert "24/24 files" in done.err
    told = json.loads(sslfeat("check", folder, "--corpus", "emodb", "--json", "--quiet").out)
    assert (told["utterances"], len(told["missing"]), told["is_off"]) == (24, 511, True)
    assert told["duplicates"][0]["id"] == f"emodb/{files[6].stem}"


def test_check_of_a_whole_corpus_exits_with_zero(sslfeat: Call, tmp_path):
    # A corpus without published counts has nothing to be incomplete against.
    for speaker in ("a", "b"):
        for label in ("anger", "fear"):
            write_wav(
                tmp_path / "own" / f"{speaker}_{label}.wav", make_tone(0.2, seed=ord(speaker) * len(label))
            )
    done = sslfeat("check", tmp_path / "own", "--pattern", "{speaker}_{label}.wav", "--quiet")
    assert done.status == 0
    assert "nothing is off" in done.out
    assert "4 utterances, 2 speakers, 2 labels." in done.err


def test_corpora_lists_all_and_shows_one(sslfeat: Call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    everything, one = sslfeat("corpora"), sslfeat("corpora", "savee")
    for name in ("emodb", "ravdess", "shemo", "savee", "aesdd"):
        assert re.search(rf"^{name} ", everything.out, re.M)
    assert re.search(r"^emodb +535 +10 +7 +0\.4  German$", everything.out, re.M)
    assert re.search(r"^speakers +4 ", one.out, re.M)
    assert (everything.status, everything.err, one.status, one.err) == (0, "", 0, "")


# the group


def test_every_command_explains_itself(sslfeat: Call):
    overview = sslfeat("--help")
    every = {"extract", "info", "verify", "merge", "fit", "report", "predict", "check", "corpora"}
    assert set(cli.main.commands) == every
    for name, command in cli.main.commands.items():
        assert re.search(rf"^  {name} ", overview.out, re.M)
        told = sslfeat(name, "-h")
        assert (told.status, told.err) == (0, "")
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.opts[-1] in told.out
                assert option.help or option.name == "help"


def test_version_is_that_of_the_package(sslfeat: Call, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", {"sslfeat": "1.2.3"}.__getitem__)
    assert sslfeat("--version").out == "sslfeat, version 1.2.3\n"


def test_a_closed_pipe_is_no_error():
    code = "import sys; sys.argv = ['sslfeat', 'corpora']; from cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(cli.__file__).parent,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert b"Traceback" not in err
    assert b"Error" not in err
