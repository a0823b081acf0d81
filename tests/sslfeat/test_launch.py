"""Shares, devices and schedulers as the command line takes them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import FeatureCache
from sslfeat.extract import Extraction
from sslfeat.options import parse_shard
from tests.conftest import Outcome

Call = Callable[..., Outcome]


@pytest.fixture
def asked(corpus_dir: Path, model_directory: Path) -> list[object]:
    return ["extract", corpus_dir, "--corpus", "emodb", "--model", model_directory, "--quiet"]


def test_shards_merge_to_the_whole(
    sslfeat: Call, asked: list[object], cache_path: Path, tmp_path: Path
) -> None:
    told = []
    for number in (1, 2, 3):
        done = sslfeat(*asked, "-o", tmp_path / f"{number}.h5", "--shard", f"{number}/3", "--device", "cpu")
        assert done.status == 0
        told += re.findall(rf"^share {number} of 3: (\d+) of 24 utterances\.$", done.err, re.M)
        assert json.loads(sslfeat("info", tmp_path / f"{number}.h5", "--json").out)["utterances"] == int(
            told[-1]
        )
    assert (len(told), sum(map(int, told))) == (3, 24)
    assert (
        sslfeat("merge", tmp_path / "all.h5", *(tmp_path / f"{number}.h5" for number in (3, 1, 2))).status
        == 0
    )
    with FeatureCache(tmp_path / "all.h5") as joined, FeatureCache(cache_path) as whole:
        assert joined.spec == whole.spec
        assert list(joined.rows()) == list(whole.rows())
        for pooling in ("mean", "std"):
            assert np.allclose(joined.embeddings(pooling), whole.embeddings(pooling), rtol=1e-5, atol=1e-6)


def test_a_share_without_utterances_is_an_empty_cache(
    sslfeat: Call, asked: list[object], cache_path: Path, tmp_path: Path
) -> None:
    # 24 utterances leave most of 500 shares empty.
    for number in range(1, 500):
        path = tmp_path / "share.h5"
        done = sslfeat(*asked, "-o", path, "--shard", f"{number}/500", "--device", "cpu")
        if f"share {number} of 500: 0 of 24 utterances." in done.err:
            break
        path.unlink()
    assert (done.status, done.out) == (0, f"{path}\n")
    assert "nothing left to do; 0 failed, 0 duplicates." in done.err
    with FeatureCache(path) as cache:
        assert (len(cache), cache.complete, cache.verify()) == (0, True, [])
    before = path.read_bytes()
    assert sslfeat(*asked, "-o", path, "--shard", f"{number}/500", "--device", "cpu").status == 0
    assert path.read_bytes() == before
    assert sslfeat("merge", tmp_path / "all.h5", path, cache_path).status == 0
    with FeatureCache(tmp_path / "all.h5") as joined, FeatureCache(cache_path) as whole:
        assert list(joined.rows()) == list(whole.rows())


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1/0", "3", "1/3/5", "-1/3", "a/b", "1 / 3", ""])
def test_a_share_that_makes_no_sense(fails: Call, asked: list[object], tmp_path: Path, shard: str) -> None:
    match = rf"Invalid value for '--shard': a share is I/N with I in 1\.\.N, as 2/8\. Got {shard!r} instead\."
    fails(*asked, "-o", tmp_path / "out.h5", "--shard", shard, match=match, status=2)


def test_a_share_is_read_with_the_zeros_of_a_job_array() -> None:
    context: Any = None
    assert parse_shard(context, context, "07/16") == (7, 16)
    assert parse_shard(context, context, "10/10") == (10, 10)
    assert parse_shard(context, context, None) is None


def test_devices_that_can_not_be(fails: Call, asked: list[object], tmp_path: Path) -> None:
    out = ["-o", tmp_path / "out.h5"]
    told = r"Invalid value for '--device': a device is auto, cpu, mps, cuda or cuda:N\. Got 'tpu:x' instead\."
    fails(*asked, *out, "--device", "cpu,tpu:x", match=told, status=2)
    fails(
        *asked, *out, "--device", "cuda:98,cuda:99", match="device 'cuda:98' is not there: this machine shows"
    )
    fails(
        *asked, *out, "--device", "cpu,cpu", "--scheduler", "tcp://127.0.0.1:9",
        match="--device is one for each worker where there is a --scheduler.", status=2,
    )  # fmt: skip
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "function", "where", "expected"),
    [
        (["--device", "cpu,cpu"], "extract_on_devices", "cpu, cpu", {"devices": ["cpu", "cpu"]}),
        (["--scheduler", "tcp://10.0.0.1:8786", "--device", "cuda"], "extract_on_cluster", "the workers of tcp://10.0.0.1:8786", {"scheduler": "tcp://10.0.0.1:8786", "device": "cuda"}),
    ],
)  # fmt: skip
def test_processes_are_asked_for_what_was_asked(
    sslfeat: Call, asked: list[object], model_directory: Path, corpus_dir: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, options: list[str], function: str, where: str, expected: dict[str, Any],
) -> None:  # fmt: skip
    calls: list[dict[str, Any]] = []

    def take(utterances: list[Any], cache_path: Path, **given: Any) -> Extraction:
        calls.append(given | {"ids": len(utterances)})
        nothing: dict[str, Any] = {name: [] for name in ("failures", "duplicates", "gone", "set_aside")}
        return Extraction(
            cache_path=cache_path, num_written=0, num_kept=0, audio_seconds=0.0, wall_seconds=0.0, **nothing
        )

    monkeypatch.setattr(f"sslfeat.launch.{function}", take)
    done = sslfeat(
        *asked, "-o", tmp_path / "out.h5", *options, "--overwrite", "--jobs", "3", "--batch-seconds", "7",
        "--pooling", "max", "--precision", "bfloat16", "--shard", "1/1",
    )  # fmt: skip
    assert done.status == 0
    assert f"3 layers of 32, bfloat16 on {where}." in done.err
    (given,) = calls
    work = given.pop("work")
    assert callable(given.pop("progress"))
    assert given == {"ids": 24, "overwrite": True, **expected}
    assert (work.model_id, work.root) == (str(model_directory), corpus_dir)
    assert (work.jobs, work.batch_seconds) == (3, 7.0)
    assert (work.spec.pooling, work.spec.precision) == (("max",), "bfloat16")
