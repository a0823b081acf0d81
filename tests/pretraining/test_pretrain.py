import dataclasses
import json
import logging

import numpy as np
import pytest
import soundfile
import torch
from transformers import HubertModel

from pretraining.objective import Student, span_mask
from pretraining.pretrain import Recipe, Run, learning_rate, main, train
from sslfeat.encoder import Encoder

SMALL = Recipe(
    conv_dim=(20, 36, 40, 48, 52, 48, 32),
    hidden_size=32,
    num_hidden_layers=2,
    intermediate_size=32,
    num_clusters=5,
    regress_layers=(1, 2),
    pooled_layers=(2,),
    task_weights=(1.0, 1.0, 0.1),
    masked=0.5,
    warmup_steps=2,
)


@pytest.fixture(autouse=True)
def _few_calibration_batches(monkeypatch):
    monkeypatch.setattr("pretraining.pretrain.CALIBRATION_BATCHES", 3)


def weights(run):
    return {name: tensor.clone() for name, tensor in run.student.state_dict().items()}


def test_learning_rate_rises_stays_and_falls():
    recipe = Recipe(peak_rate=2.0, warmup_steps=10, decay_share=0.25)
    rates = [learning_rate(step, 100, recipe) for step in range(101)]
    np.testing.assert_allclose(rates[:10], np.linspace(0.2, 2.0, 10))
    assert set(rates[10:76]) == {2.0}
    assert (np.diff(rates[75:]) < 0).all()
    assert rates[88] == pytest.approx(1 - np.cos(np.pi * 12 / 25))
    assert rates[100] == 0


def test_a_resumed_run_is_the_undisturbed_one(tmp_path, sampler):
    whole = Run(sampler, SMALL, tmp_path / "whole")
    losses = [whole.advance(6)["total"] for _ in range(6)]
    first = Run(sampler, SMALL, tmp_path / "killed")
    for _ in range(3):
        first.advance(6)
    first.save()
    first.advance(6)  # and dies
    second = Run(sampler, SMALL, tmp_path / "killed")
    assert second.step == 3
    assert [second.advance(6)["total"] for _ in range(3)] == losses[3:]
    resumed = weights(second)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, resumed[name]), name


def test_learning_lowers_the_loss_of_a_batch_it_never_saw(tmp_path, sampler):
    run = Run(sampler, dataclasses.replace(SMALL, peak_rate=5e-3), tmp_path)
    mask = span_mask((4, 49), np.random.default_rng(0))
    clean, heard = sampler.batch(1000)

    def loss():
        with torch.no_grad():
            return float(run.student.losses(clean, heard, mask)["total"])

    before = loss()
    for _ in range(40):
        run.advance(40)
    assert loss() < 0.85 * before


def test_a_folder_with_another_recipe_is_refused(tmp_path, sampler):
    Run(sampler, SMALL, tmp_path)
    other = dataclasses.replace(SMALL, hidden_size=64, seed=1)
    with pytest.raises(
        ValueError, match=r"recipe\.json: a run with another hidden_size, seed; pass another output"
    ):
        Run(sampler, other, tmp_path)


def test_a_save_leaves_no_half_written_file(tmp_path, sampler, monkeypatch):
    run = Run(sampler, SMALL, tmp_path)
    run.save()
    before = (tmp_path / "state.pt").read_bytes()

    def full_disk(_, path):
        path.write_bytes(b"half")
        raise OSError

    monkeypatch.setattr(torch, "save", full_disk)
    run.advance(5)
    with pytest.raises(OSError):  # noqa: PT011 - the point is what is left behind
        run.save()
    assert (tmp_path / "state.pt").read_bytes() == before
    assert Run(sampler, SMALL, tmp_path).step == 0


def test_a_new_run_starts_warm_and_a_resumed_one_where_it_was(tmp_path, sampler, monkeypatch):
    starts = []
    monkeypatch.setattr(Student, "warm_start", lambda _, crops: starts.append(len(crops)))
    Run(sampler, SMALL, tmp_path).save()
    Run(sampler, SMALL, tmp_path)
    assert starts == [3]


def test_a_run_may_start_from_what_an_earlier_one_exported(tmp_path, sampler, monkeypatch):
    first = Run(sampler, SMALL, tmp_path / "first")
    first.advance(10)
    first.save()
    monkeypatch.setattr(Student, "warm_start", lambda *_: pytest.fail("the filterbank was built again"))
    recipe = dataclasses.replace(
        SMALL, start_from=str(tmp_path / "first/encoder"), regress_layers=(0, 2), pooled_layers=(0, 1)
    )
    second = Run(sampler, recipe, tmp_path / "second")
    learnt = first.student.encoder.state_dict()
    for name, tensor in second.student.encoder.state_dict().items():
        assert torch.equal(tensor, learnt[name]), name
    assert second.step == 0
    assert set(second.student.frame_heads) == {"0", "2"}
    second.advance(10)
    second.save()
    # the earlier encoder is read once: a run that goes on has its own weights
    moved = weights(second)
    for name, tensor in weights(Run(sampler, recipe, tmp_path / "second")).items():
        assert torch.equal(tensor, moved[name]), name


def test_a_run_may_widen_what_an_earlier_one_exported(tmp_path, sampler, monkeypatch):
    first = Run(sampler, SMALL, tmp_path / "first")
    first.save()
    widened = []
    real = Student.widen

    def widen(student, earlier, crops, rng):
        widened.append((earlier.config.hidden_size, len(crops)))
        real(student, earlier, crops, rng)

    monkeypatch.setattr(Student, "widen", widen)
    recipe = dataclasses.replace(
        SMALL,
        widen_from=str(tmp_path / "first/encoder"),
        conv_dim=(20, 36, 40, 48, 52, 56, 48),
        hidden_size=64,
        num_hidden_layers=1,
        positional_kernel=16,
        regress_layers=(0, 1),
        pooled_layers=(0,),
    )
    second = Run(sampler, recipe, tmp_path / "second")
    assert second.student.encoder.config.num_conv_pos_embeddings == 16
    second.advance(5)
    second.save()
    moved = weights(second)
    for name, tensor in weights(Run(sampler, recipe, tmp_path / "second")).items():
        assert torch.equal(tensor, moved[name]), name
    assert widened == [(32, 3)]


@pytest.mark.parametrize(("masked", "hidden"), [(0.0, False), (1.0, True)])
def test_the_recipe_says_in_how_many_crops_frames_are_hidden(tmp_path, sampler, masked, hidden):
    run = Run(sampler, dataclasses.replace(SMALL, masked=masked), tmp_path)
    assert (run.advance(5)["clusters"] > 0) == hidden


def test_training_reports_its_steps_losses_and_time_left(tmp_path, sampler, caplog):
    with caplog.at_level(logging.INFO, logger="pretraining"):
        train(Run(sampler, SMALL, tmp_path), steps=4, save_every=3600, report_every=2)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith("step 2 of 4, ")
    for part in ("epochs: frames ", "functionals ", "clusters ", "total ", "s a step", "min left"):
        assert part in lines[0]
    assert Run(sampler, SMALL, tmp_path).step == 4


@pytest.mark.slow
def test_the_command_trains_exports_and_continues(tmp_path):
    rng = np.random.default_rng(0)
    for folder, names in {"speech": ("a", "b", "left-out"), "noise": ("n",)}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            tone = np.sign(np.sin(2 * np.pi * 150 * np.arange(80_000) / 16_000))
            samples = 0.1 * rng.normal(size=80_000) + 0.2 * tone
            soundfile.write(tmp_path / folder / f"{name}.wav", samples, 16_000)
    out = tmp_path / "out"
    command = [
        str(tmp_path / "speech"),
        "-o",
        str(out),
        "--noise",
        str(tmp_path / "noise"),
        "--leave-out",
        "left",
    ]
    command += [
        "--conv-dim",
        *["20", "36", "40", "48", "52", "48", "32"],
        "--hidden-size",
        "32",
        "--num-hidden-layers",
        "2",
    ]
    command += ["--regress-layers", "2", "--pooled-layers", "1", "2"]
    command += ["--intermediate-size", "32", "--batch-seconds", "6", "--num-clusters", "4", "--threads", "1"]
    assert main([*command, "--steps", "2"]) == 0
    assert len(json.loads((out / "speech.json").read_text())["paths"]) == 2
    model, report = HubertModel.from_pretrained(out / "encoder", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert main([*command, "--steps", "3"]) == 0
    assert torch.load(out / "state.pt", weights_only=True)["step"] == 3
    encoder = Encoder.load(str(out / "encoder"), device="cpu")
    assert encoder.normalise
    assert encoder.hidden_states(rng.normal(size=16_000).astype(np.float32)).shape == (3, 49, 32)
    assert model.config.conv_dim == [20, 36, 40, 48, 52, 48, 32]
