"""Shares of a corpus: who gets which utterance, and that they join to what one run makes, whatever happens between."""

import dataclasses
import functools
import pickle
import shutil
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import transformers

from cache import CacheError, FeatureCache, FeatureSpec, SpecMismatchError, Utterance, merge
from sslfeat.encoder import EMBEDDED, Encoder
from sslfeat.extract import Extraction, Progress
from sslfeat.spread import Crew, Report, Share, Work, WorkerError, choose_share, extract_share, spread

Run = Callable[..., Extraction]
Listing = Callable[[], list[Utterance]]
Check = Callable[[Path, Path], None]


@pytest.fixture
def spec(encoder: Encoder) -> FeatureSpec:
    return encoder.spec(pooling=("mean", "std"))


@pytest.fixture
def work(model_directory: Path, spec: FeatureSpec, wav: Path) -> Work:
    return Work.plan(str(model_directory), spec, wav, batch_seconds=0.7, jobs=1)


def do(work: Work, only: Sequence[int] | None = None, order: int = 1) -> Crew:
    """A crew that does its shares in this process, one after the other, perhaps not all of them."""

    def crew(shares: Sequence[Share], report: Report) -> Sequence[Extraction]:
        done = {}
        for index, share in list(enumerate(shares))[::order]:
            if only is None or index in only:
                done[index] = extract_share(work, share, "cpu", functools.partial(report, index))
        if len(done) < len(shares):
            msg = "a worker was lost"
            raise WorkerError(msg)
        return [done[index] for index in range(len(shares))]

    return crew


@pytest.fixture
def run_spread(work: Work, utterances: Listing, out: Path) -> Run:
    """Extract the corpus folder, as it is then, to ``out.h5`` in three shares."""

    def run_spread(**options: Any) -> Extraction:
        options = {"work": work, "num_shares": 3, "crew": do(options.get("work", work)), **options}
        return spread(utterances(), out, **options)

    return run_spread


def told(extraction: Extraction) -> dict[str, Any]:
    """What an extraction tells that depends neither on time and place nor on who had which copy of a recording."""
    skipped = ("wall_seconds", "cache_path", "sample_rates")
    found = {name: value for name, value in dataclasses.asdict(extraction).items() if name not in skipped}
    found["audio_seconds"] = round(found["audio_seconds"], 6)
    found["durations"] = [round(one, 6) for one in found["durations"]]
    return found


def make_troubled(wav: Path) -> None:
    """Copies of one recording under names before and after it, and files that are no use."""
    for name in ("02a01Wa", "04a01Wa", "10a01Wa", "11a01Wa", "16a01Na"):
        shutil.copy(wav / "03a01Wa.wav", wav / f"{name}.wav")
    (wav / "05a01Wa.wav").write_bytes(b"")
    (wav / "15b02Na.wav").write_text("not audio")


# Shares


def test_shares_are_disjoint_and_together_all() -> None:
    utterances = [Utterance(id=f"own/{number}", path=f"{number}.wav") for number in range(2000)]
    shares = [choose_share(utterances, number, 7) for number in range(1, 8)]
    assert sorted(one.id for share in shares for one in share) == sorted(one.id for one in utterances)
    # 286 each; the deviation of a binomial is 16.
    assert all(abs(len(share) - 2000 / 7) < 80 for share in shares)
    assert choose_share(utterances, 1, 1) == utterances


def test_a_share_is_that_of_the_ids_hash_and_keeps_its_order() -> None:
    utterances = [Utterance(id=f"{name}/ü{name}", path=name) for name in "zyxwvu"]
    for number in (1, 2, 3):
        expected = [
            one
            for one in utterances
            if int(blake2b(one.id.encode(), digest_size=8).hexdigest(), 16) % 3 + 1 == number
        ]
        assert choose_share(utterances, number, 3) == expected
    # A file name that is no UTF-8 has a place too.
    assert len([n for n in (1, 2) if choose_share([Utterance(id="a\udcff", path="a")], n, 2)]) == 1


def test_new_files_move_no_old_one_to_another_share() -> None:
    utterances = [Utterance(id=f"own/{number}", path="a.wav") for number in range(60)]
    before = choose_share(utterances[::2], 2, 4)
    assert [one for one in choose_share(utterances, 2, 4) if one in utterances[::2]] == before


@pytest.mark.parametrize("count", [2, 5, 40])
def test_shares_on_their_own_merge_to_the_undivided_run(
    run: Run, utterances: Listing, wav: Path, tmp_path: Path, assert_equal_caches: Check, count: int
) -> None:
    make_troubled(wav)
    whole = run(cache_path=tmp_path / "whole.h5")
    assert (whole.num_written, len(whole.duplicates), len(whole.failures)) == (12, 5, 2)
    copies = {"own/03a01Wa", "own/02a01Wa"}
    shares = [choose_share(utterances(), number, count) for number in range(1, count + 1)]
    assert sum(bool(copies & {one.id for one in share}) for share in shares) == 2
    paths = []
    for number, share in enumerate(shares):
        paths.append(tmp_path / f"share-{number}.h5")
        if share:
            run(utterances=share, cache_path=paths[-1])
            with FeatureCache(paths[-1]) as cache:
                assert cache.complete
                assert cache.verify() == []
    paths = [path for path in paths if path.exists()]
    merge(tmp_path / "joined.h5", paths)
    assert_equal_caches(tmp_path / "joined.h5", tmp_path / "whole.h5")
    merge(tmp_path / "backwards.h5", paths[::-1])
    assert_equal_caches(tmp_path / "backwards.h5", tmp_path / "whole.h5")
    with FeatureCache(tmp_path / "joined.h5") as cache:
        assert {one.original_id for one in cache.duplicates} == {"own/02a01Wa"}


# The whole


def test_work_is_plain_data(work: Work, model_directory: Path, wav: Path, monkeypatch) -> None:
    assert pickle.loads(pickle.dumps(work)) == work
    assert len(pickle.dumps(work)) < 2000
    assert (work.model_id, work.revision, work.root) == (str(model_directory), None, wav)
    # Workers may have another working folder.
    monkeypatch.chdir(model_directory.parent)
    here = Work.plan(model_directory.name, work.spec, "..")
    assert (here.model_id, here.root) == (str(model_directory), model_directory.parents[1])
    (model_directory.parent / EMBEDDED).mkdir()
    assert Work.plan(EMBEDDED, work.spec, wav).model_id == EMBEDDED
    on_hub = dataclasses.replace(work.spec, model_id="facebook/wav2vec2-base", revision="0ba9a7b")
    named = Work.plan("facebook/wav2vec2-base", on_hub, wav)
    assert (named.model_id, named.revision) == ("facebook/wav2vec2-base", "0ba9a7b")


@pytest.mark.parametrize(("num_shares", "order"), [(1, 1), (2, -1), (3, 1), (50, -1)])
def test_a_spread_run_is_the_plain_one(
    run: Run, run_spread: Run, work: Work, wav: Path, out: Path, tmp_path: Path, assert_equal_caches: Check,
    num_shares: int, order: int,
) -> None:  # fmt: skip
    make_troubled(wav)
    expected = run(cache_path=tmp_path / "plain.h5")
    done = run_spread(num_shares=num_shares, crew=do(work, order=order))
    assert_equal_caches(out, tmp_path / "plain.h5")
    assert told(done) == told(expected)
    assert 12 <= done.sample_rates[16_000] <= 17
    assert sorted(path.name for path in tmp_path.glob("*.h5*")) == ["out.h5", "plain.h5"]


def test_progress_is_that_of_the_whole(run_spread: Run, wav: Path) -> None:
    (wav / "15b02Na.wav").write_text("not audio")
    seen: list[Progress] = []
    done = run_spread(progress=seen.append)
    assert {one.total for one in seen} == {13}
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    assert (seen[0].done, seen[-1].done, seen[-1].num_failures) == (0, 13, 1)
    assert seen[-1].audio_seconds == pytest.approx(done.audio_seconds)
    assert 0 < seen[-1].wall_seconds <= done.wall_seconds


def test_nothing_is_written_and_no_worker_started_where_nothing_is_left(run_spread: Run, out: Path) -> None:
    run_spread()
    before = (out.read_bytes(), out.stat().st_mtime_ns)
    done = run_spread(crew=None)
    assert (done.num_written, done.num_kept, done.durations) == (0, 12, (0.0, 0.0, 0.0))
    assert (out.read_bytes(), out.stat().st_mtime_ns) == before
    assert [path.name for path in out.parent.glob("*.h5*")] == ["out.h5"]


def test_only_what_is_new_is_shared_out(
    run: Run, run_spread: Run, work: Work, wav: Path, out: Path, tmp_path: Path, assert_equal_caches: Check
) -> None:
    run()
    (wav / "09b02Na.wav").unlink()
    make_troubled(wav)
    done = run_spread()
    # 02a01Wa, the copy of the smallest id, takes the place of 03a01Wa.
    assert (done.num_written, done.num_kept, done.gone) == (1, 11, ["own/09b02Na"])
    run(cache_path=tmp_path / "plain.h5")
    found = {one.id: one.original_id for one in FeatureCache(out).duplicates}
    assert found == {one.id: one.original_id for one in FeatureCache(tmp_path / "plain.h5").duplicates}
    assert set(FeatureCache(out).utterance_ids) == {
        *FeatureCache(tmp_path / "plain.h5").utterance_ids, "own/09b02Na"
    }  # fmt: skip


def test_overwriting_begins_again(run: Run, run_spread: Run, work: Work, out: Path) -> None:
    run(layers=[0])
    with pytest.raises(SpecMismatchError, match=r"out\.h5: made under another spec: layers \(0,\) \(there\)"):
        run_spread()
    with pytest.raises(WorkerError):
        run_spread(crew=do(work, only=[0]), overwrite=True)
    done = run_spread(overwrite=True)
    assert (done.num_written, done.num_kept) == (12, 0)
    with FeatureCache(out) as cache:
        assert (cache.layers, len(cache)) == ((0, 1, 2), 12)


# What is lost and what is kept


@pytest.mark.parametrize("then", ["same", "more", "plain"])
def test_what_was_committed_is_kept_whichever_run_comes_next(
    run: Run, run_spread: Run, work: Work, wav: Path, out: Path, tmp_path: Path, assert_equal_caches: Check,
    then: str,
) -> None:  # fmt: skip
    make_troubled(wav)
    with pytest.raises(WorkerError, match="a worker was lost"):
        run_spread(crew=do(work, only=[0, 2]))
    assert not out.exists()
    assert sorted(path.name for path in (tmp_path / "out.h5.shards").iterdir()) == ["1-of-3.h5", "3-of-3.h5"]
    done = run() if then == "plain" else run_spread(num_shares=5 if then == "more" else 3)
    assert done.num_kept >= 8
    assert done.num_written <= 5
    run(cache_path=tmp_path / "plain.h5")
    assert_equal_caches(out, tmp_path / "plain.h5")
    assert sorted(path.name for path in tmp_path.glob("*.h5*")) == ["out.h5", "plain.h5"]


def test_a_share_is_taken_up_from_its_parts(
    run: Run, run_spread: Run, work: Work, out: Path, tmp_path: Path, assert_equal_caches: Check,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As when another worker goes on with the share of one that was killed, in one and the same run."""
    monkeypatch.setattr("sslfeat.extract._PART_BYTES", 1)
    again: list[Extraction] = []

    def crew(shares: Sequence[Share], report: Report) -> Sequence[Extraction]:
        def stop(progress: Progress) -> None:
            if progress.done >= 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            extract_share(work, shares[0], "cpu", stop)
        tells = [functools.partial(report, index) for index in range(len(shares))]
        again.extend(
            extract_share(work, share, "cpu", tell) for share, tell in zip(shares, tells, strict=True)
        )
        return again

    seen: list[Progress] = []
    done = run_spread(num_shares=2, crew=crew, progress=seen.append)
    assert 3 <= again[0].num_kept < 6
    # All six of the share count as done, though the second attempt had fewer to do.
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    assert (seen[-1].done, seen[-1].total) == (12, 12)
    assert done.num_written == 12
    run(cache_path=tmp_path / "plain.h5")
    assert_equal_caches(out, tmp_path / "plain.h5")


def test_a_damaged_share_is_set_aside_and_done_again(run_spread: Run, work: Work, out: Path) -> None:
    with pytest.raises(WorkerError):
        run_spread(crew=do(work, only=[0]))
    shard = out.with_name("out.h5.shards") / "1-of-3.h5"
    with FeatureCache(shard) as cache:
        numbers = cache.features(0).tobytes()
    content = bytearray(shard.read_bytes())
    content[content.index(numbers)] ^= 1
    shard.write_bytes(content)
    done = run_spread()
    assert len(done.set_aside) == 1
    assert (done.num_written, done.num_kept) == (12, 0)


def test_a_share_under_another_spec_is_refused(run_spread: Run, work: Work, encoder: Encoder) -> None:
    with pytest.raises(WorkerError):
        run_spread(crew=do(work, only=[1]))
    other = dataclasses.replace(work, spec=encoder.spec(pooling=("max",)))
    with pytest.raises(
        SpecMismatchError, match=r"out\.h5\.parts/part-00000001\.h5: made under another spec: pooling"
    ):
        run_spread(work=other)


def test_a_folder_of_shards_that_can_not_be_made_is_told(run_spread: Run, out: Path) -> None:
    out.with_name("out.h5.shards").write_text("in the way")
    with pytest.raises(CacheError, match=r"out\.h5: can't be written \(.*: .*out\.h5\.shards\)\."):
        run_spread()


# Workers


def test_a_worker_whose_encoder_is_another_one_is_refused(
    work: Work, model_directory: Path, run_spread: Run, tmp_path: Path
) -> None:
    model = transformers.Wav2Vec2Model.from_pretrained(model_directory)
    model.encoder.layers[0].final_layer_norm.bias.data += 1
    model.save_pretrained(tmp_path / "other")
    shutil.copy(model_directory / "preprocessor_config.json", tmp_path / "other")
    other = dataclasses.replace(work, model_id=str(tmp_path / "other"))
    with pytest.raises(
        SpecMismatchError,
        match=r"/other: another encoder than where the run was started: model_id 'other' \(this worker\) vs .*weights_hash",
    ):
        run_spread(work=other)


def test_a_worker_takes_what_is_asked_over_its_own_defaults(
    model_directory: Path, encoder: Encoder, run: Run, run_spread: Run, wav: Path, out: Path, tmp_path: Path
) -> None:
    soundfile.write(wav / "long.wav", 0.1 * np.random.default_rng(0).standard_normal((90_000, 2)), 16_000)
    (wav / "long.wav").rename(wav / "17a01Wa.wav")
    asked = encoder.spec(layers=[2], frames=True, dtype="float16", channels="0", chunk_seconds=4.0)
    run_spread(work=Work.plan(str(model_directory), asked, wav))
    with FeatureCache(out) as cache:
        assert cache.spec == asked
        states = encoder.hidden_states(soundfile.read(wav / "03a01Wa.wav", dtype="float32")[0])
        np.testing.assert_allclose(cache.frames("own/03a01Wa", 2), states[2], rtol=2**-10, atol=1e-4)
        assert cache.num_frames[cache.index("own/17a01Wa")] > 270
