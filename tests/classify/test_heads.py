import dataclasses

import numpy as np
import pytest
import torch

from classify import training
from classify.heads import Head, Recipe, Rows
from classify.solo import Solo
from classify.stack import Stack
from classify.training import train_heads

RECIPE = Recipe(
    hidden_layer_sizes=(12,),
    activation="relu",
    dropout=0.0,
    batch_norm=False,
    learning_rate=0.01,
    weight_decay=0.1,
    batch_size=16,
    max_epochs=20,
    patience=0,
)


def make_head(seed, rows=70, validation=0, features=10, dtype=np.float32):
    generator = np.random.default_rng(seed)

    def draw(count):
        targets = generator.integers(0, 3, count)
        values = generator.normal(size=(count, features)) + np.eye(features)[targets]
        return Rows(values.astype(dtype), targets, generator.uniform(0.5, 2, count).astype(dtype))

    return Head(
        training=draw(rows), validation=draw(validation) if validation else None, num_classes=3, seed=seed
    )


def arrays_of(trained):
    return [*trained.weights, *trained.biases, trained.layer_weights]


def assert_same(first, second):
    for a, b in zip(arrays_of(first), arrays_of(second), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)
    assert first.best_epoch == second.best_epoch
    assert len(first.training_losses) == len(second.training_losses)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_epochs": 50},
        {"dropout": 0.4},
        {"batch_norm": True, "hidden_layer_sizes": (12, 7)},
        {"activation": "gelu", "dropout": 0.1, "batch_norm": True},
        {"hidden_layer_sizes": ()},
        {"num_layers": 5, "dropout": 0.2},
        {"patience": 3, "learning_rate": 0.05, "batch_norm": True, "dropout": 0.2},
    ],
    ids=str,
)
def test_each_head_ends_as_if_alone(changes):
    recipe = dataclasses.replace(RECIPE, **changes)
    # 65..80 rows make five steps and share one stack; 50 rows make four and can't.
    members = [make_head(i, rows=50 if i == 1 else 65 + 3 * i, validation=20) for i in range(4)]
    together = train_heads(recipe, members)
    for member, trained in zip(members, together, strict=True):
        assert_same(trained, train_heads(recipe, [member])[0])
    if recipe.patience:
        assert len({len(trained.training_losses) for trained in together}) > 1


VARIANTS = [
    {},
    {"dropout": 0.4, "hidden_layer_sizes": (12, 7)},
    {"batch_norm": True, "dropout": 0.2, "hidden_layer_sizes": (12, 7), "activation": "gelu"},
    {"batch_norm": True, "activation": "silu"},
    {"activation": "tanh", "num_layers": 5},
    {"hidden_layer_sizes": (), "num_layers": 2},
    {"patience": 3, "learning_rate": 0.05, "batch_norm": True, "dropout": 0.2},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_steps_spelt_out_are_those_of_autograd(changes):
    # In double precision, where Adam has no rounding to magnify.
    recipe = dataclasses.replace(RECIPE, **changes)
    members = [make_head(i, rows=65 + 5 * i, validation=20, dtype=np.float64) for i in range(3)]
    stacked = Stack(recipe, members, torch.device("cpu")).train()
    for member, expected in zip(members, stacked, strict=True):
        (trained,) = Solo(recipe, member).train()
        assert_same(trained, expected)
        np.testing.assert_allclose(trained.training_losses, expected.training_losses, rtol=1e-7)
        np.testing.assert_allclose(trained.validation_losses, expected.validation_losses, rtol=1e-7)


def test_groups_are_of_one_shape_and_fit(monkeypatch):
    members = [make_head(i, rows=50 if i == 1 else 70) for i in range(6)]
    assert sorted(training._groups(RECIPE, members)) == [[0, 2, 3, 4, 5], [1]]
    size = 6 * (10 * 12 + 12 * 3) * 4 + 70 * 10 * 4
    monkeypatch.setattr(training, "GROUP_BYTES", 2 * size)
    assert sorted(training._groups(RECIPE, members)) == [[0, 2], [1], [3, 4], [5]]


@pytest.mark.parametrize("batch_norm", [False, True])
def test_full_batches_train_as_a_torch_module_does(batch_norm):
    head = make_head(3, dtype=np.float64)
    recipe = dataclasses.replace(RECIPE, batch_size=100, batch_norm=batch_norm, max_epochs=20)
    trained = train_heads(recipe, [head])[0]

    generator = np.random.default_rng(head.seed)
    module = torch.nn.Sequential(
        torch.nn.Linear(10, 12, bias=not batch_norm, dtype=torch.float64),
        torch.nn.BatchNorm1d(12, dtype=torch.float64) if batch_norm else torch.nn.Identity(),
        torch.nn.ReLU(),
        torch.nn.Linear(12, 3, dtype=torch.float64),
    )
    rows = len(head.training.targets)
    with torch.no_grad():
        for linear in (module[0], module[3]):
            fan_out, fan_in = linear.weight.shape
            draws = generator.uniform(-(fan_in**-0.5), fan_in**-0.5, (fan_out, fan_in + 1))
            linear.weight.copy_(torch.from_numpy(draws[:, :-1]))
            if linear.bias is not None:
                linear.bias.copy_(torch.from_numpy(draws[:, -1]))
    if batch_norm:  # plain statistics, so that equal weights are all that is left to compare
        head = dataclasses.replace(head, training=dataclasses.replace(head.training, weights=np.ones(rows)))
        trained = train_heads(recipe, [head])[0]
    matrices = [module[0].weight, module[3].weight]
    others = [p for p in module.parameters() if p.ndim == 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=0.01
    )
    values, targets, weights = (torch.from_numpy(part) for part in dataclasses.astuple(head.training))
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        each = torch.nn.functional.cross_entropy(module(values), targets, reduction="none")
        loss = (each * weights).sum() / weights.sum()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    np.testing.assert_allclose(trained.training_losses, losses, rtol=1e-9)

    if batch_norm:
        # torch keeps the unbiased variance, which weighted rows don't have; undo its factor step by step's sum.
        module[1].running_var.sub_(0.9**20).mul_((rows - 1) / rows).add_(0.9**20)
    module.eval()
    hidden = np.maximum(head.training.features @ trained.weights[0] + trained.biases[0], 0)
    logits = hidden @ trained.weights[1] + trained.biases[1]
    np.testing.assert_allclose(logits, module(values).detach().numpy(), rtol=1e-8, atol=1e-10)


def test_a_weighted_sum_trains_as_a_torch_module_does():
    head = make_head(3, features=12, dtype=np.float64)
    recipe = dataclasses.replace(RECIPE, batch_size=100, hidden_layer_sizes=(), num_layers=3)
    trained = train_heads(recipe, [head])[0]
    draws = np.random.default_rng(head.seed).uniform(-0.5, 0.5, (3, 5))  # 1 / sqrt(4) = 0.5
    weight, bias, mixer = (
        torch.tensor(values, requires_grad=True) for values in (draws[:, :-1], draws[:, -1], np.zeros(3))
    )
    optimiser = torch.optim.AdamW(
        [{"params": [weight], "weight_decay": 0.1}, {"params": [bias, mixer], "weight_decay": 0.0}], lr=0.01
    )
    values, targets, weights = (torch.from_numpy(part) for part in dataclasses.astuple(head.training))
    for _ in range(recipe.max_epochs):
        optimiser.zero_grad()
        mixed = sum(share * values[:, 4 * i : 4 * i + 4] for i, share in enumerate(mixer.softmax(0)))
        each = torch.nn.functional.cross_entropy(mixed @ weight.T + bias, targets, reduction="none")
        ((each * weights).sum() / weights.sum()).backward()
        optimiser.step()
    np.testing.assert_allclose(trained.layer_weights, mixer.softmax(0).detach(), rtol=1e-9)
    np.testing.assert_allclose(trained.weights[0], weight.detach().T, rtol=1e-9)


def test_an_epoch_shows_every_row_once_in_even_batches():
    members = [make_head(i, rows=rows) for i, rows in enumerate((65, 70, 80))]
    stack = Stack(RECIPE, members, torch.device("cpu"))
    rows, shares = stack._batches([0, 1, 2])
    assert rows.shape == (5, 3, 16)
    for place, member in enumerate(members):
        shown = rows[:, place][shares[:, place] > 0] - stack.offsets[place]
        assert sorted(shown.tolist()) == list(range(len(member.training.targets)))
        sizes = (shares[:, place] > 0).sum(1)
        assert sizes.max() - sizes.min() <= 1
        np.testing.assert_allclose(shares[:, place].sum(1), 1, rtol=1e-6)


def test_dropout_keeps_the_mean_and_the_promised_share():
    stack = Stack(dataclasses.replace(RECIPE, dropout=0.25), [make_head(0)] * 2, torch.device("cpu"))
    (mask,) = stack._dropout_masks([0, 1])
    drawn = mask[:, :, :14]
    assert (drawn == 0).double().mean() == pytest.approx(0.25, abs=0.03)
    assert drawn.mean() == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(mask.unique(), [0, 4 / 3], rtol=1e-6)


def test_wide_networks_use_the_threads_and_small_ones_one(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    with training._single_thread(training.MULTITHREADED_PRODUCTS - 1):
        pass
    with training._single_thread(training.MULTITHREADED_PRODUCTS):
        pass
    assert seen == [1, 7, 7, 7]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_heads_end_as_if_alone():
    recipe = dataclasses.replace(RECIPE, dropout=0.2, batch_norm=True, max_epochs=20)
    members = [make_head(i, rows=65 + i) for i in range(6)]
    for member, trained in zip(members, train_heads(recipe, members, device="cuda"), strict=True):
        assert_same(trained, train_heads(recipe, [member], device="cuda")[0])
