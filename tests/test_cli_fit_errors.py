"""Bad input to comparisons and predictions: one clear sentence, the right exit status, nothing lost, no traceback."""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from cache import CacheWriter, FeatureSpec, Row, Utterance
from tests.conftest import Outcome

Call = Callable[..., Outcome]


def write_cache(path: Path, rows: Iterable[tuple[str, str, str]], **changes: object) -> Path:
    """Write a cache whose rows are ids, speakers and labels, and whose numbers follow from the labels."""
    fields = {
        "model_id": "tiny", "revision": "local", "weights_hash": "0" * 64, "architecture": "wav2vec2",
        "num_hidden_layers": 2, "hidden_size": 4, "layers": (0, 2), "pooling": ("mean",), "normalise": True,
    }  # fmt: skip
    with CacheWriter(path, FeatureSpec(**(fields | changes))) as writer:
        for number, (identity, speaker, label) in enumerate(rows):
            utterance = Utterance(id=identity, path=f"{identity}.wav", speaker=speaker, label=label)
            digest = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
            row = Row(utterance=utterance, audio_hash=digest, num_samples=16_000 + number, num_frames=49)
            rng = np.random.default_rng([number, len(label)])
            writer.add(row, {"mean": rng.normal(len(label), 1, (2, 4)).astype(np.float32)}, None)
    return path


def grid(
    speakers: str = "abc", labels: Iterable[str] = ("anger", "fear"), takes: int = 2
) -> list[tuple[str, str, str]]:
    return [(f"{s}-{e}-{n}", f"own:{s}", e) for s in speakers for e in labels for n in range(takes)]


# Fit


@pytest.mark.parametrize(
    ("options", "match", "status"),
    [
        (["--layer", "13"], r".*own\.h5: no layer 13; stored layers are 0, 2\.", 1),
        (["--layer", "last"], r"--layer takes all, best, or a layer's number\. Got 'last' instead\.", 2),
        (["--layer", "-1"], r"--layer takes all, best, or a layer's number\. Got '-1' instead\.", 2),
        (["--layer", "best", "--layer", "2"], r"--layer best is about all layers and stands alone\.", 2),
        (["--layer", "all", "--layer", "2"], r"--layer all is about all layers and stands alone\.", 2),
        (["--report-optimism", "--protocol", "paper"], r"--report-optimism holds another protocol against paper\. Leave it out, or choose another --protocol\.", 2),
        (["--jobs", "0"], r"--jobs is a number of processes, or -1 for all cores\. Got 0 instead\.", 2),
        (["--pooling", "std"], r".*own\.h5: no pooling 'std'; stored are mean\.", 1),
        (["--pooling", "mean+median"], r"Invalid value for '--pooling': pooling is out of mean, std, max, min, or several joined by \+\. Got 'median' instead\.", 2),
        (["--classifier", "xgboost"], r"classifier must be one of feedforward, logistic, .*, or module:Class\. Got 'xgboost' instead\.", 2),
        (["--classifier", "no_such_module:Class"], r"classifier 'no_such_module:Class': module 'no_such_module' can't be imported \(.*\); is it installed here\?", 2),
        (["--classifier", "collections:Counter"], r"classifier 'collections:Counter' must be a scikit-learn classifier\. It makes a Counter\.", 2),
        (["--protocol", "10-fold"], r"protocol must be one of leave-one-speaker-out, speaker-k-fold, .* \(k a number\)\. Got '10-fold' instead\.", 2),
        (["--protocol", "speaker-9-fold"], r"speaker-9-fold needs at least 9 speakers\. Got 3: own:a, own:b, own:c\.", 1),
        (["--protocol", "leave-one-session-out"], r"leave-one-session-out needs the session of every utterance\. 12 of 12 have none, as a-anger-0; choose another protocol\.", 1),
        (["--exclude-label", "joy"], r"a label to exclude must be in the cache\. Got 'joy'; .*own\.h5 has anger, fear\.", 1),
        (["--exclude-label", "fear"], r"a comparison needs at least two labels\. .*own\.h5 has anger left\.", 1),
        (["--merge-labels", "joy=fear"], r"a label to merge must be in the cache\. Got 'joy'; .*own\.h5 has anger, fear\.", 1),
        (["--search", "halving"], r"--search says how to choose\. Give it --tune or --layer best to choose by\.", 2),
        (["--test", "other.h5"], r"fit takes either CACHE\.h5\.\.\., or --train and --test\.", 2),
        (["--class-weight", "balanced", "--classifier", "knn"], r"class weights need a classifier that takes them\. knn doesn't; leave the one or the other out\.", 2),
        (["--audit-text"], r"what must be on one side of a fold must be known\. 12 of 12 utterances have no text, as a-anger-0; name it in the corpus, or ask less of the audit\.", 1),
        (["--merge-labels", "fear"], r"Invalid value for '--merge-labels': --merge-labels takes pairs as excited=happiness\. Got 'fear' instead\.", 2),
        (["--merge-labels", "fear=joy", "--merge-labels", "fear=anger"], r"Invalid value for '--merge-labels': --merge-labels says two things of 'fear': 'joy' and 'anger'\.", 2),
        (["--device", "banana"], r"Invalid value for '--device': a device is auto, cpu, mps, cuda or cuda:N\. Got 'banana' instead\.", 2),
    ],
)  # fmt: skip
def test_fit_options_that_make_no_sense(fails, tmp_path, options, match, status):
    path = write_cache(tmp_path / "own.h5", grid())
    arguments = ["fit", path, "-o", tmp_path / "results", "--jobs", 1, *options]
    fails(*arguments, match=match, status=status)
    assert [path.name for path in tmp_path.iterdir()] == ["own.h5"]


def test_fit_on_some_corpora_and_others(fails, sslfeat, tmp_path):
    first = write_cache(tmp_path / "first.h5", grid(labels=("anger", "fear", "joy")))
    second = write_cache(tmp_path / "second.h5", grid("def", labels=("anger", "rage", "sadness")))
    out = ["-o", tmp_path / "results", "--jobs", 1, "--classifier", "ridge", "--layer", 2]
    for sides in ([], [first, "--train", first, "--test", second], ["--train", first]):
        fails(
            "fit", *sides, *out, match=r"fit takes either CACHE\.h5\.\.\., or --train and --test\.", status=2
        )
    crossed = ["--train", first, "--test", second, *out]
    fails(
        "fit",
        *crossed,
        match=r"caches to cross must share at least two labels: first has anger, fear, joy; second has .*",
    )
    match = r"--train and --test are a protocol themselves\. Got --protocol paper too\."
    fails("fit", *crossed, "--protocol", "paper", match=match, status=2)
    (tmp_path / "results" / ".joint-killed").mkdir()
    done = sslfeat("fit", *crossed, "--merge-labels", "rage=fear")
    assert done.status == 0, done.err
    assert (
        "Labels of all 2 caches: anger, fear. Left out: joy (only in first), sadness (only in second).\n"
        in done.err
    )
    assert re.search(r"pair by pair: first to second \d+\.\d %\.", done.err)
    assert "\nfirst + second\t2\tmean\tridge\tcross-corpus" in done.out
    assert "; first + second, layer 2, mean, ridge, fitted again on all utterances: " in done.err
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == [
        "bundle", "predictions.csv", "report.html", "report.md", "results.csv", "results.json", "table.tex",
    ]  # fmt: skip


def test_fit_where_no_scheduler_answers(fails, tmp_path, monkeypatch):
    def refuse(backend, scheduler_host):
        raise OSError(backend)

    monkeypatch.setattr("joblib.parallel_config", refuse)
    monkeypatch.setattr("importlib.util.find_spec", str)
    path = write_cache(tmp_path / "own.h5", grid())
    options = ["-o", tmp_path / "results", "--scheduler", "tcp://10.0.0.1:8786"]
    fails(
        "fit",
        path,
        *options,
        match=r"tcp://10\.0\.0\.1:8786: no scheduler answers there \(dask\); .*",
        status=1,
    )


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (
            [*grid(), ("a-joy-0", "own:a", "joy")],
            r"each label needs at least two utterances\. 'joy' has one; leave it out with --exclude-label joy "
            r"or join it to another with --merge-labels\.",
        ),
        (
            [*grid(), ("a-joy-0", "own:a", "joy"), ("a-joy-1", "own:a", "joy")],
            r"every label that a fold tests must be in its training part\. leave-one-speaker-out, fold 'own:a': none "
            r"of joy is left to learn from; leave it out with --exclude-label joy or choose another protocol\.",
        ),
        (grid("a"), r"leave-one-speaker-out needs at least 2 speakers\. Got 1: own:a\."),
        (grid(labels=["fear"]), r"a comparison needs at least two labels\. .*own\.h5 has fear left\."),
        (
            [*grid(), ("z", "", "fear")],
            r".*own\.h5: every utterance needs a speaker, because intervals are over speakers\. 1 have none, as z; ",
        ),
        ([], r".*own\.h5: holds no utterance; "),
    ],
    ids=["one-utterance", "one-speaker", "only-speaker", "only-label", "no-speaker", "no-row"],
)
def test_utterances_that_can_not_be_divided(fails, tmp_path, rows, match):
    fails("fit", write_cache(tmp_path / "own.h5", rows), "-o", tmp_path / "results", "--jobs", 1, match=match)
    assert not (tmp_path / "results").exists()


def test_leaving_the_rare_label_out_is_a_remedy_that_works(sslfeat: Call, tmp_path):
    path = write_cache(tmp_path / "own.h5", [*grid(), ("a-joy-0", "own:a", "joy")])
    options = ["--classifier", "gaussian-nb", "--jobs", 1, "--exclude-label", "joy"]
    done = sslfeat("fit", path, "-o", tmp_path / "results", *options)
    assert done.status == 0
    assert "1 utterance of joy is left out." in done.err


def test_caches_that_do_not_belong_together(fails, tmp_path):
    mine = write_cache(tmp_path / "a.h5", grid())
    other = write_cache(tmp_path / "b.h5", [("x", "own:x", "fear")])
    changed = write_cache(tmp_path / "c.h5", [(i, s, "joy" if i == "b-fear-1" else e) for i, s, e in grid()])
    out = ["-o", tmp_path / "results"]
    fails("fit", mine, other, *out, match=r".*a\.h5: no utterance of it is in .*b\.h5\.")
    match = r".*c\.h5: its labels must be those of .*a\.h5\. 1 differ, as 'fear' vs 'joy' of b-fear-1; "
    fails("fit", mine, changed, *out, match=match)
    fails("fit", mine, mine, *out, match=r"each cache must be given once\. Got ")


# Where the output goes


def test_fit_refuses_its_output_before_the_work(fails, cache_path, results_dir, tmp_path, monkeypatch):
    def work(*arguments: object, **options: object) -> None:
        pytest.fail("the work was begun")

    monkeypatch.setattr("classify.compare.compare", work)
    other = tmp_path / "other"
    other.mkdir()
    (other / "report.md").write_text("mine")
    (tmp_path / "file").touch()
    before = {path: path.read_bytes() for path in results_dir.rglob("*") if path.is_file()}
    for output, match in {
        results_dir: r"already holds results\.json, .* of another run\. Choose another folder, or allow overwriting \(--overwrite\)",
        other: r"already holds report\.md of another run\.",
        tmp_path / "file": r"results need a folder\. This is a file; choose another name\.",
        tmp_path
        / "file"
        / "results": r"results can't be written here \(Not a directory\)\. Choose another folder\.",
        Path("/proc/nowhere/results"): r"results can't be written here \(.*\)\. Choose another folder\.",
    }.items():
        fails("fit", cache_path, "-o", output, match=f"{re.escape(str(output))}: {match}")
    assert before == {path: path.read_bytes() for path in results_dir.rglob("*") if path.is_file()}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "other", "report.md"]


def test_merge_and_report_replace_nothing_unasked(fails, sslfeat: Call, cache_path, results_dir, tmp_path):
    taken = Path(shutil.copy(cache_path, tmp_path / "taken.h5"))
    match = r".*taken\.h5: exists already; choose another name or overwrite it\."
    fails("merge", taken, cache_path, match=match)
    assert sslfeat("merge", taken, cache_path, "--overwrite").status == 0
    fails("merge", tmp_path / "out.h5", match=r"Missing argument 'IN\.h5\.\.\.'\.", status=2)
    match = r"joining several results needs -o, the folder for the joint report\."
    fails("report", results_dir, results_dir, match=match, status=2)
    for folder in (tmp_path, tmp_path / "missing", cache_path):
        match = rf"{re.escape(str(folder))}: no results\.json here\. Give the folder that a comparison was written to\."
        fails("report", folder, match=match)
    damaged = shutil.copytree(results_dir, tmp_path / "damaged")
    text = (damaged / "results.json").read_text()
    (damaged / "results.json").write_text(text[: len(text) // 2])
    fails("report", damaged, match=r".*damaged/results\.json: ")


# Bundles


def test_what_is_no_bundle(fails, cache_path, results_dir, tmp_path):
    damaged = shutil.copytree(results_dir / "bundle", tmp_path / "damaged")
    (damaged / "estimator.skops").write_bytes(b"PK")
    other = shutil.copytree(results_dir / "bundle", tmp_path / "other")
    (other / "bundle.json").write_text('{"format": "zip", "version": 1}')
    remedy = r"give the folder bundle/ in a comparison's results\."
    for folder, match in {
        tmp_path / "missing": rf"no bundle \(bundle\.json: No such file or directory\); {remedy}",
        results_dir: rf"no bundle \(bundle\.json: No such file or directory\); {remedy}",
        cache_path: rf"no bundle \(bundle\.json: Not a directory\); {remedy}",
    }.items():
        fails("predict", folder, "--cache", cache_path, match=f"{re.escape(str(folder))}: {match}")
    fails(
        "predict",
        damaged,
        "--cache",
        cache_path,
        match=r".*estimator\.skops: the classifier can't be read \(",
    )
    match = r".*bundle\.json: format 'zip'; a bundle has format 'sslfeat-bundle'\."
    fails("predict", other, "--cache", cache_path, match=match)


def test_predict_needs_audio_or_a_cache(fails, results_dir, cache_path, corpus_dir, tmp_path):
    bundle = results_dir / "bundle"
    match = "give audio files or folders, or --cache: one of the two."
    fails("predict", bundle, match=match, status=2)
    fails("predict", bundle, corpus_dir, "--cache", cache_path, match=match, status=2)
    for option, value in (("--model", "tiny"), ("--device", "cpu"), ("--jobs", 2)):
        match = f"a cache's features are there already: {option} is for audio\\."
        fails("predict", bundle, "--cache", cache_path, option, value, match=match, status=2)
    fails("predict", bundle, tmp_path, match=rf"{re.escape(str(tmp_path))}: no audio in it ")
    match = r"the bundle's encoder, tiny-wav2vec2-.*, was a local directory; name it with --model\."
    fails("predict", bundle, corpus_dir, match=match, status=2)


def test_a_bundle_refuses_another_encoder_and_names_the_fields(fails, results_dir, corpus_dir, tmp_path):
    torch.manual_seed(1)
    config = transformers.HubertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7,
        num_conv_pos_embedding_groups=4, feat_extract_norm="layer", do_stable_layer_norm=True,
    )  # fmt: skip
    transformers.HubertModel(config).save_pretrained(tmp_path / "other")
    match = (
        r".*other: features must be made as those that the bundle was fitted on\. They differ: weights_hash '.*' \(bundle\) "
        r"vs '.*' \(features\); architecture 'wav2vec2' \(bundle\) vs 'hubert' \(features\); num_hidden_layers 2 \(bundle\)"
    )
    fails("predict", results_dir / "bundle", corpus_dir, "--model", tmp_path / "other", match=match)


def test_a_bundle_refuses_a_cache_that_lacks_what_it_needs(
    fails, sslfeat: Call, corpus_dir, model_directory, cache_path, tmp_path
):
    few = tmp_path / "wav"
    few.mkdir()
    shutil.copy(min(corpus_dir.iterdir()), few)
    options = ["--classifier", "gaussian-nb", "--layer", 2, "--pooling", "mean+std", "--jobs", 1]
    assert sslfeat("fit", cache_path, "-o", tmp_path / "results", *options).status == 0
    bundle = tmp_path / "results" / "bundle"
    for name, choice, match in (
        ("layers", ["--layers", "0-1"], r"the bundle needs layer 2\. The features have layers 0, 1\."),
        ("pooling", ["--pooling", "mean"], r"the bundle needs pooling 'std'\. The features have mean\."),
        (
            "precision",
            ["--precision", "bfloat16"],
            r"features must be .* precision 'float32' \(bundle\) vs 'bfloat16'",
        ),
    ):
        path = tmp_path / f"{name}.h5"
        options = ["--model", model_directory, "--quiet", "--device", "cpu", *choice]
        assert sslfeat("extract", few, "-o", path, *options).status == 0
        fails("predict", bundle, "--cache", path, match=f"{re.escape(str(path))}: {match}")


# Interruption


def test_an_interrupted_comparison_goes_on(sslfeat: Call, cache_path, results_dir, tmp_path, monkeypatch):
    folder = tmp_path / "results"
    arguments = [
        "fit",
        cache_path,
        "-o",
        folder,
        "--classifier",
        "logistic",
        "--classifier",
        "gaussian-nb",
        "--jobs",
        1,
    ]
    import classify.compare

    run, done_before, done_after = classify.compare.run, [], []

    def interrupted(task):
        if len(done_before) == 3:
            raise KeyboardInterrupt
        done_before.append(task)
        return run(task)

    def counted(task):
        done_after.append(task)
        return run(task)

    monkeypatch.setattr("classify.compare.run", interrupted)
    stopped = sslfeat(*arguments)
    assert (stopped.status, stopped.out) == (130, "")
    assert stopped.err.endswith("kept, and the same command goes on from there.\n")
    assert [path.name for path in folder.iterdir()] == ["unfinished.jsonl"]
    monkeypatch.setattr("classify.compare.run", counted)
    assert sslfeat(*arguments).status == 0
    assert len(done_after) == 8 - 3  # two classifiers on three layers, and two baselines
    assert not (folder / "unfinished.jsonl").exists()
    assert (folder / "predictions.csv").read_text() == (results_dir / "predictions.csv").read_text()


def test_results_are_there_where_no_bundle_can_be(sslfeat: Call, cache_path, tmp_path, monkeypatch):
    from classify import Bundle

    def stopped(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    def refused(*arguments: object, **options: object) -> None:
        msg = "its training part has one label."
        raise ValueError(msg)

    folder = tmp_path / "results"
    arguments = ["fit", cache_path, "-o", folder, "--classifier", "ridge", "--layer", 1, "--jobs", 1]
    monkeypatch.setattr(Bundle, "fit", stopped)
    assert sslfeat(*arguments).status == 130
    before = (folder / "results.json").read_text()
    monkeypatch.setattr(Bundle, "fit", refused)
    done = sslfeat(*arguments)  # goes on, though it finds results
    assert (done.status, (folder / "results.json").read_text()) == (0, before)
    assert "; no bundle of emodb, layer 1, mean, ridge: its training part has one label.\n" in done.err
    assert sorted(path.name for path in folder.iterdir()) == [
        "predictions.csv", "report.html", "report.md", "results.csv", "results.json", "table.tex",
    ]  # fmt: skip


# Names of strangers


def test_no_name_in_an_error_or_a_note_steers_the_terminal(sslfeat, tmp_path):
    hostile = "\x1b]0;gone\x07\x1b[2J\u202e"
    rows = [(f"{hostile}{i}", f"own:{s}{hostile}", f"{e}{hostile}") for i, s, e in grid()]
    cache_path = write_cache(tmp_path / "own.h5", rows)
    asked = (
        ("fit", cache_path, "-o", tmp_path / "a", "--layer", "2", "--classifier", "lda"),
        ("fit", cache_path, "-o", tmp_path / "b", "--protocol", "leave-one-session-out"),
        ("fit", cache_path, "-o", tmp_path / "c", "--classifier", "lda", "--exclude-label", "no"),
        ("info", cache_path),
        ("info", tmp_path / f"none{hostile}.h5"),
        ("predict", tmp_path / "a" / "bundle", "--cache", cache_path),
    )
    for arguments in asked:
        done = sslfeat(*arguments)
        assert not re.search("[\x1b\x07\u202e]", done.out + done.err), arguments
