import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from transformers import HubertModel

from pretraining.functionals import functionals
from pretraining.hinges import LINEAR_SHARE
from pretraining.objective import (
    PROSODY_IMPORTANCE,
    Calibration,
    Student,
    encoder_config,
    nearest,
    pool,
    span_mask,
    standardised,
    widen_front_end,
)
from pretraining.targets import PROSODY, describe, frame_targets

SMALL = {"conv_dim": (8,) * 7, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def calibration(sampler):
    return Calibration.estimated([sampler.batch(step)[0] for step in range(6)], num_clusters=7, seed=0)


@pytest.fixture
def student(calibration):
    torch.manual_seed(0)
    return Student(
        encoder_config(**SMALL),
        calibration,
        regress_layers=(1,),
        pooled_layers=(1, 2),
        weights=(1.0, 1.0, 0.1),
    )


def test_the_encoder_has_the_base_models_frames_and_norm():
    model = HubertModel(encoder_config())
    assert sum(parameter.numel() for parameter in model.parameters()) * 4 < 12e6
    assert type(model.feature_extractor.conv_layers[0].layer_norm) is torch.nn.GroupNorm
    assert model._get_feat_extract_output_lengths(16_000) == 49


def test_masks_are_spans_in_a_share_of_the_crops():
    mask = span_mask((400, 200), np.random.default_rng(0), share=0.5, starts=0.05, span=10).numpy()
    masked = mask.any(axis=1)
    assert 0.4 < masked.mean() < 0.6
    # a frame stays heard where none of ten frames begins a span
    assert abs(mask[masked][:, 10:].mean() - (1 - 0.95**10)) < 0.03
    for row in mask[masked]:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]])))
        lengths = edges[1::2] - edges[::2]
        assert (lengths[:-1] >= 10).all()


def test_masks_repeat_for_their_generator():
    one, other = (span_mask((6, 50), np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(one, other)


def test_nearest_is_that_of_plain_distances():
    rng = np.random.default_rng(0)
    rows, codebook = rng.normal(size=(50, 5)), rng.normal(size=(9, 5))
    found = nearest(torch.from_numpy(rows), torch.from_numpy(codebook))
    np.testing.assert_array_equal(found, cdist(rows, codebook).argmin(axis=1))


def test_pooling_is_numpys():
    frames = torch.randn(3, 17, 5)
    expected = np.concatenate([frames.numpy().mean(1), frames.numpy().std(1, ddof=1)], axis=1)
    np.testing.assert_allclose(pool(frames), expected, atol=1e-5)


def test_pooling_has_a_slope_where_nothing_moves():
    frames = torch.zeros(1, 4, 2, requires_grad=True)
    pool(frames).sum().backward()
    assert torch.isfinite(frames.grad).all()


def test_calibration_standardises_what_it_saw(sampler, calibration):
    described = [describe(sampler.batch(step)[0]) for step in range(6)]
    pairs = [frame_targets(descriptors) for descriptors in described]
    rows = torch.cat([targets.flatten(0, 1) for targets, _ in pairs]).numpy()
    weights = torch.cat([weights.flatten(0, 1) for _, weights in pairs]).numpy()
    for column in (0, PROSODY.index("log_f0"), 60):
        kept = rows[:, column][weights[:, column] > 0]
        np.testing.assert_allclose(calibration.frame_mean[column], kept.mean(), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(calibration.frame_std[column], kept.std(), rtol=1e-3)
    summaries = torch.cat([functionals(descriptors) for descriptors in described])
    torch.testing.assert_close(calibration.functional_mean, summaries.mean(dim=0))
    assert calibration.codebook.shape == (7, rows.shape[1])


def test_calibration_survives_a_checkpoint(calibration):
    again = Calibration(**calibration.tensors())
    assert torch.equal(again.codebook, calibration.codebook)


def test_a_warm_start_says_the_targets_by_least_squares(sampler, calibration):
    torch.manual_seed(0)
    wide = encoder_config(num_hidden_layers=1)
    student = Student(wide, calibration, regress_layers=(1,), pooled_layers=(1,)).eval()
    batches = [sampler.batch(step)[0] for step in range(6)]
    drawn = student.encoder.feature_projection.projection.weight.detach().clone()
    student.warm_start(batches)
    channels, wanted = [], []
    with torch.no_grad():
        for crops in batches:
            heard = student.encoder.feature_extractor(standardised(crops)).transpose(1, 2)
            channels.append(student.encoder.feature_projection.layer_norm(heard).flatten(0, 1))
            targets, weights = frame_targets(describe(crops))
            standard = (targets - calibration.frame_mean) / calibration.frame_std * weights
            wanted.append(standard.flatten(0, 1))
        rows, truth = torch.cat(channels), torch.cat(wanted)
        said = student.encoder.feature_projection.projection(rows)[:, : truth.shape[1]]
    ridge = Ridge(alpha=1.0).fit(rows.numpy(), truth.numpy())
    assert r2_score(truth, said.numpy()) > r2_score(truth, ridge.predict(rows.numpy())) - 0.1
    assert r2_score(truth, said.numpy()) > 0.5
    left_over = student.encoder.feature_projection.projection.weight[truth.shape[1] :]
    assert torch.equal(left_over, drawn[truth.shape[1] :])


def test_a_widened_front_end_says_what_the_narrow_one_said():
    torch.manual_seed(0)
    narrow = HubertModel(encoder_config(**SMALL))
    wide = HubertModel(encoder_config(**SMALL | {"conv_dim": (8, 8, 12, 12, 12, 16, 20)}))
    with torch.no_grad():
        for parameter in narrow.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        widen_front_end(wide, narrow)
        waveforms = torch.randn(2, 8000)
        said, expected = wide.feature_extractor(waveforms), narrow.feature_extractor(waveforms)
    torch.testing.assert_close(said[:, :8], expected)
    assert (said[:, 8:].std(dim=2) > 0).all()


def test_widening_starts_from_the_earlier_front_end_with_targets_and_hinges(sampler, calibration):
    torch.manual_seed(0)
    batches = [sampler.batch(step)[0] for step in range(6)]
    narrow = Student(
        encoder_config(num_hidden_layers=1), calibration, regress_layers=(1,), pooled_layers=(1,)
    )
    narrow.warm_start(batches)
    config = encoder_config(hidden_size=96, num_hidden_layers=1, intermediate_size=32)
    wide = Student(config, calibration, regress_layers=(0,), pooled_layers=(0,)).eval()
    drawn = wide.encoder.encoder.pos_conv_embed.conv.weight.detach().clone()
    wide.widen(narrow.encoder, batches, np.random.default_rng(0))
    crops = batches[0]
    with torch.no_grad():
        expected = narrow.encoder.feature_extractor(standardised(crops))
        channels = wide.encoder.feature_extractor(standardised(crops))
        said = wide.encoder.feature_projection(channels.transpose(1, 2))
    torch.testing.assert_close(channels, expected)
    targets, _ = frame_targets(describe(crops))
    energy = ((targets - calibration.frame_mean) / calibration.frame_std)[
        ..., PROSODY.index("energy")
    ].flatten()
    explained = [np.corrcoef(unit, energy)[0, 1] for unit in said.reshape(-1, 96).T.numpy()]
    assert max(explained) > 0.9
    assert said.std() < 1.2 * LINEAR_SHARE
    read = wide.encoder.encoder.pos_conv_embed.conv.weight
    assert (read.detach().abs().amax(dim=2) > 1e-9).sum() < (drawn.abs().amax(dim=2) > 1e-9).sum() / 2


def test_losses_are_those_of_plain_arithmetic(sampler, student):
    clean, heard = sampler.batch(9)
    mask = span_mask((len(clean), 49), np.random.default_rng(1), share=1.0)
    student.eval()
    with torch.no_grad():
        losses = {name: float(loss) for name, loss in student.losses(clean, heard, mask).items()}
        states = student.encoder(
            standardised(heard), mask_time_indices=mask, output_hidden_states=True
        ).hidden_states
        scale = student.calibration
        targets, weights = frame_targets(describe(clean))
        targets = (targets - scale.frame_mean) / scale.frame_std
        summary = (functionals(describe(clean)) - scale.functional_mean) / scale.functional_std

        def smooth(difference):
            size = difference.abs()
            return torch.where(size < 1, size.square() / 2, size - 0.5)

        importance = torch.where(torch.arange(targets.shape[2]) < len(PROSODY), PROSODY_IMPORTANCE, 1.0)
        frames = (smooth(student.frame_heads["1"](states[1]) - targets) * weights * importance).mean()
        pooled = [
            smooth(student.functional_heads[str(layer)](pool(states[layer])) - summary.clamp(-5, 5)).mean()
            for layer in (1, 2)
        ]
        logits = student.cluster_head(states[2][mask]).log_softmax(dim=1).numpy()
        clusters = cdist((targets * weights)[mask].numpy(), scale.codebook.numpy()).argmin(axis=1)
    assert losses["frames"] == pytest.approx(float(frames), rel=1e-4)
    assert losses["functionals"] == pytest.approx(float(sum(pooled) / 2), rel=1e-4)
    assert losses["clusters"] == pytest.approx(-logits[np.arange(len(clusters)), clusters].mean(), rel=1e-4)
    expected = losses["frames"] + losses["functionals"] + 0.1 * losses["clusters"]
    assert losses["total"] == pytest.approx(expected, rel=1e-5)


def test_hidden_frames_are_hidden(sampler, student):
    clean, heard = sampler.batch(2)
    mask = torch.ones(len(clean), 49, dtype=torch.bool)
    student.eval()
    with torch.no_grad():
        one = student.encoder(heard, mask_time_indices=mask).last_hidden_state
        other = student.encoder(torch.randn_like(heard), mask_time_indices=mask).last_hidden_state
    torch.testing.assert_close(one, other)


def test_without_hidden_frames_no_cluster_is_asked(sampler, student):
    clean, heard = sampler.batch(2)
    losses = student.losses(clean, heard, torch.zeros(len(clean), 49, dtype=torch.bool))
    assert float(losses["clusters"]) == 0


def test_every_weight_learns(sampler, student):
    clean, heard = sampler.batch(4)
    mask = span_mask((len(clean), 49), np.random.default_rng(0), share=1.0)
    student.losses(clean, heard, mask)["total"].backward()
    still = [
        name for name, weight in student.named_parameters() if weight.grad is None or not weight.grad.any()
    ]
    assert still == []
