import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from classify.discriminant import ShrunkDiscriminant


@parametrize_with_checks(
    [ShrunkDiscriminant(), ShrunkDiscriminant(quadratic=True), ShrunkDiscriminant(shrinkage=0.5)]
)
def test_scikit_learns_contract_holds(estimator, check):
    check(estimator)


def make_data(n, p, labels=3, seed=0):
    generator = np.random.default_rng(seed)
    y = generator.integers(0, labels, n)
    scales = generator.uniform(0.2, 5, (labels, p))  # unlike for each label, so that the two kinds differ
    X = (generator.normal(size=(n, p)) + generator.normal(size=(labels, p))[y] * 0.4) * scales[y]
    return X, np.array(["anger", "fear", "joy", "sadness"])[y]


def scikit_learns(quadratic, shrinkage):
    if not quadratic:
        return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    try:
        return QuadraticDiscriminantAnalysis(solver="eigen", shrinkage=shrinkage)
    except TypeError:
        pytest.skip("this scikit-learn's quadratic discriminant can't shrink")


@pytest.mark.parametrize("shrinkage", ["auto", 0.1, 0.9, 1.0])
@pytest.mark.parametrize("quadratic", [False, True])
@pytest.mark.parametrize(("n", "p", "labels"), [(90, 200, 3), (300, 20, 4), (60, 25, 2)])
def test_it_is_scikit_learns_classifier(n, p, labels, quadratic, shrinkage):
    X, y = make_data(2 * n, p, labels)
    expected = scikit_learns(quadratic, shrinkage).fit(X[:n], y[:n])
    ours = ShrunkDiscriminant(quadratic=quadratic, shrinkage=shrinkage).fit(X[:n], y[:n])
    np.testing.assert_allclose(
        ours.predict_proba(X[n:]), expected.predict_proba(X[n:]), rtol=1e-6, atol=1e-12
    )
    np.testing.assert_array_equal(ours.predict(X[n:]), expected.predict(X[n:]))
    if labels == 2:
        np.testing.assert_allclose(
            ours.decision_function(X[n:]), expected.decision_function(X[n:]), rtol=1e-6
        )


def test_the_share_is_that_of_ledoit_and_wolf():
    for n, p in ((20, 60), (60, 20)):
        X, _ = make_data(n, p)
        rows = X - X.mean(0)
        spread = ShrunkDiscriminant()._spread(rows, "joy")
        assert spread.share == pytest.approx(ledoit_wolf_shrinkage(StandardScaler().fit_transform(X)))


def test_few_rows_leave_few_directions():
    X, y = make_data(60, 500)
    fitted = ShrunkDiscriminant(quadratic=True).fit(X, y)
    for label, directions in zip(fitted.classes_, fitted.directions_, strict=True):
        assert directions.shape == (500, np.count_nonzero(y == label) - 1)


@pytest.mark.parametrize("quadratic", [False, True])
def test_no_shrinkage_is_no_shrinkage(quadratic):
    X, y = make_data(200, 10)
    expected = scikit_learns(quadratic, 0.0).fit(X, y)
    ours = ShrunkDiscriminant(quadratic=quadratic, shrinkage=0.0).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), expected.predict_proba(X), rtol=1e-6, atol=1e-12)


def test_a_singular_common_covariance_has_the_shortest_solution():
    X, y = make_data(30, 60)
    ours = ShrunkDiscriminant(shrinkage=0.0).fit(X, y)
    covariance = sum(
        prior * np.cov(X[y == label].T, ddof=0)
        for prior, label in zip(ours.priors_, ours.classes_, strict=True)
    )
    solution = np.linalg.lstsq(covariance, ours.means_.T, rcond=1e-10)[0].T
    np.testing.assert_allclose(ours.coef_, solution, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shrinkage", [-0.1, 1.5, "none"])
def test_shrinkage_is_a_share(shrinkage):
    with pytest.raises(ValueError, match=r"must be 'auto' or in \[0, 1\]. Got"):
        ShrunkDiscriminant(shrinkage=shrinkage).fit(*make_data(20, 4))


def test_a_label_without_a_covariance_is_refused():
    X, y = make_data(40, 5)
    with pytest.raises(ValueError, match="Its 40 rows leave no variance to shrink towards"):
        ShrunkDiscriminant(quadratic=True).fit(np.r_[X, np.zeros((40, 5))], [*y, *["calm"] * 40])
    with pytest.raises(ValueError, match=r"at least two rows, to have a covariance. Got 1 sample of 'calm'"):
        ShrunkDiscriminant(quadratic=True).fit(np.r_[X, np.zeros((1, 5))], [*y, "calm"])
    with pytest.raises(ValueError, match="needs at least two classes"):
        ShrunkDiscriminant().fit(X, ["calm"] * 40)
