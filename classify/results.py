"""The nouns of a comparison: what compare fills, what the statistics are computed from, what a report renders."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, NoReturn, Self, TypeVar, get_args, get_origin

T = TypeVar("T")
RESULTS_FORMAT = "sslfeat-results"
RESULTS_VERSION = 1
OLD_NAMES = {"p_holm": "p_corrected"}  # of fields that were renamed


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A score pooled over all predictions, with its 95 % interval from resampling speakers."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The mean of one score per fold, and its standard deviation (``ddof=0``) over the folds."""

    mean: float
    std: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How sure a row was of its answers, and how often it was right; see ``measure_calibration``.

    Parameters
    ----------
    error : float
        The expected calibration error: mean distance between the two, in [0, 1].
    counts : tuple of int
        Predictions in each bin of the probability of the predicted label.
    confidences, accuracies : tuple of float
        Mean probability and share of right answers of each bin; 0 where it is empty.
    """

    error: float
    counts: tuple[int, ...]
    confidences: tuple[float, ...]
    accuracies: tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Folds:
    """How one protocol divided the utterances.

    Parameters
    ----------
    protocol : str
        Name of the protocol, as the command line spells it.
    claim : str
        A sentence on what scores under this protocol may claim.
    optimistic : bool
        Whether the test parts hold speakers that were trained on, so that scores are higher than new speakers
        would give.
    names : tuple of str
        One name per fold, as the speaker that it leaves out.
    tested_in : tuple of tuple of int, shape (repetition, utterance)
        The fold that tests each utterance; -1 where the repetition tests it in none. Most protocols have one
        repetition, which tests every utterance once.
    audit : str
        A sentence on what was checked to be on one side only.
    """

    protocol: str
    claim: str
    optimistic: bool
    names: tuple[str, ...]
    tested_in: tuple[tuple[int, ...], ...]
    audit: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row of the table: features of one cache, one classifier, one protocol.

    Parameters
    ----------
    cache, encoder : str
        Name of the cache (its file's stem) and model id of its encoder.
    layer : int or None
        The layer; None where ``selection`` says which layers instead.
    selection : str
        Empty, ``best`` (chosen inside each training part), ``all`` (weighted inside the classifier) or ``none`` (a
        baseline that sees no embedding).
    pooling, classifier, protocol : str
        As the command line spells them.
    optimistic : bool
        Whether the protocol is: such a row must be marked wherever it is shown.
    accuracy, balanced_accuracy, f1_macro : Estimate
        Pooled over all predictions; the field's WA, UA (= UAR) and macro F1. Labels that the tested utterances
        lack don't enter the two averages.
    fold_accuracy, fold_balanced_accuracy, fold_f1_macro : Spread
        The same scores computed per fold. A fold's averages are over the labels that its test part has.
    recall : tuple of float or None
        Per label of the comparison; None where no utterance of the label was tested.
    confusion : tuple of tuple of int, shape (label, label)
        Counts; rows are true labels, columns predicted ones.
    speaker_scores, sex_scores : mapping of str to float
        Balanced accuracy of each speaker's and each sex's utterances, over the labels that they have.
    seconds : float
        Time of fitting and predicting all folds; rows that were trained together share theirs equally.
    predictions : tuple of tuple of int, shape (repetition, utterance)
        Index of the predicted label, -1 where the utterance was not tested; aligned with ``Folds.tested_in``.
    transductive : bool
        Whether features were standardised per speaker, over tested utterances too: such a score needs many
        utterances of a new speaker at once.
    tuned : bool
        Whether each training part chose the classifier's parameters.
    class_weight : str
        ``balanced`` where rare labels counted as much as frequent ones in training; else empty.
    chosen : tuple of str
        What was selected inside each fold's training part, one sentence per fold; empty where nothing was.
    mixed_layers : tuple of int
        The layers that a weighted sum was learnt over, where ``selection`` is ``all``; else empty.
    layer_weights : tuple of tuple of float, shape (fold, mixed layer)
        The share of each that each fold learnt; sums to 1.
    warnings : tuple of str
        Each distinct warning of the classifier, with how often it came.
    calibration : Calibration or None
        Over all predictions; None where the classifier gives no probabilities.
    members : tuple of str
        Names of the caches that the row's features are joined from; empty for one cache.
    """

    cache: str
    encoder: str
    layer: int | None
    pooling: str
    classifier: str
    protocol: str
    optimistic: bool
    accuracy: Estimate
    balanced_accuracy: Estimate
    f1_macro: Estimate
    fold_accuracy: Spread
    fold_balanced_accuracy: Spread
    fold_f1_macro: Spread
    recall: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]
    speaker_scores: Mapping[str, float]
    sex_scores: Mapping[str, float]
    seconds: float
    predictions: tuple[tuple[int, ...], ...]
    selection: str = ""
    tuned: bool = False
    class_weight: str = ""
    transductive: bool = False
    chosen: tuple[str, ...] = ()
    mixed_layers: tuple[int, ...] = ()
    layer_weights: tuple[tuple[float, ...], ...] = ()
    warnings: tuple[str, ...] = ()
    calibration: Calibration | None = None
    members: tuple[str, ...] = ()

    @property
    def layers(self) -> str:
        """The layer as text, or which layers the row used instead of one."""
        return self.selection or str(self.layer)

    @property
    def method(self) -> str:
        """The classifier with how it was trained: ``logistic, tuned, balanced``."""
        return ", ".join(
            [self.classifier, *["tuned"] * self.tuned, *[self.class_weight] * bool(self.class_weight)]
        )

    @property
    def system(self) -> tuple[str, ...]:
        """What a row has in common with its other layers and its other protocols, and with no other row."""
        if self.selection == "none":
            return "", "", self.classifier, ""
        return self.cache, self.pooling, self.method, "transductive" if self.transductive else ""

    @property
    def title(self) -> str:
        """The row in words: ``emodb, layer 9, mean, logistic``."""
        if self.selection == "none":
            return f"baseline {self.classifier}"
        mark = ", per speaker (transductive)" if self.transductive else ""
        return f"{self.cache}, layer {self.layers}, {self.pooling}, {self.method}{mark}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """The utterances as points in a plane, for a picture; no score depends on it.

    Parameters
    ----------
    source : str
        Which features were projected, in words.
    explained : tuple of two floats
        Share of their variance along each axis.
    points : tuple of (float, float), one per utterance
        The farthest coordinate is 1.
    """

    source: str
    explained: tuple[float, float]
    points: tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Whether one row is better than another by more than chance.

    Parameters
    ----------
    first, second : int
        Places of the rows among a comparison's results.
    difference : float
        Pooled balanced accuracy of the first less that of the second.
    p_permutation : float
        Two-sided p value of exchanging the two rows' predictions speaker by speaker.
    p_corrected : float
        The same, corrected for picking the best rows by their scores; see ``exchange_test``.
    p_resampled_t : float or None
        Two-sided p value of the corrected resampled t test over folds; None with one fold, or where all folds
        differ by the same.
    """

    first: int
    second: int
    difference: float
    p_permutation: float
    p_corrected: float
    p_resampled_t: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything that a comparison found: enough to render any report without the caches.

    Parameters
    ----------
    labels : tuple of str
        The emotions, sorted; other fields refer to them by index.
    utterance_ids, speakers, sexes : tuple of str, one per utterance
        An unknown sex is the empty string.
    truth : tuple of int, one per utterance
        Index of the true label.
    folds : tuple of Folds
        One per protocol; the first is the one that was asked for.
    results : tuple of Result
    differences : tuple of Difference
        Between the best row and others; smallest p value first.
    caches : mapping of str to mapping
        The feature spec of each cache by name, as plain values.
    notes : tuple of str
        Plain sentences that a reader of the table must know.
    command : str
        The command line; empty where there was none.
    versions : mapping of str to str
        Versions of the software by package.
    random_state : int
        The seed.
    projection : Projection or None
        Of the best row's features.
    """

    labels: tuple[str, ...]
    utterance_ids: tuple[str, ...]
    speakers: tuple[str, ...]
    sexes: tuple[str, ...]
    truth: tuple[int, ...]
    folds: tuple[Folds, ...]
    results: tuple[Result, ...]
    caches: Mapping[str, Mapping[str, Any]]
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    random_state: int = 0
    projection: Projection | None = None

    @property
    def protocol(self) -> str:
        """Name of the protocol that was asked for."""
        return self.folds[0].protocol

    @property
    def claim(self) -> str:
        """A sentence on what scores under that protocol may claim."""
        return self.folds[0].claim

    @property
    def audit(self) -> str:
        """A sentence on what was checked to be on one side only."""
        return self.folds[0].audit

    def of_tested(self, values: Sequence[T]) -> list[T]:
        """Return the values, one per utterance, of those that the protocol that was asked for tests."""
        tested = zip(*self.folds[0].tested_in, strict=True)
        return [value for value, folds in zip(values, tested, strict=True) if max(folds) >= 0]

    @property
    def num_tested_speakers(self) -> int:
        """How many people the protocol that was asked for tests on."""
        return len(set(self.of_tested(self.speakers)))

    @property
    def tested_labels(self) -> tuple[str, ...]:
        """The labels that the protocol that was asked for tests; a split may hold others in training only."""
        tested = set(self.of_tested(self.truth))
        return tuple(label for i, label in enumerate(self.labels) if i in tested)

    @property
    def class_counts(self) -> dict[str, int]:
        """Utterances per label."""
        counts = dict.fromkeys(self.labels, 0)
        for index in self.truth:
            counts[self.labels[index]] += 1
        return counts

    @property
    def best(self) -> Result:
        """The row of highest balanced accuracy; baselines and optimistic rows only where there is no other."""
        learnt = [result for result in self.results if result.selection != "none"] or self.results
        honest = [result for result in learnt if not result.optimistic]
        return max(honest or learnt, key=lambda result: result.balanced_accuracy.value)

    def folds_of(self, result: Result) -> Folds:
        """Return the folds that a row's predictions were made under."""
        return next(folds for folds in self.folds if folds.protocol == result.protocol)

    def to_json(self) -> str:
        """Return the comparison as JSON text; equal comparisons give equal text."""
        record = {"format": RESULTS_FORMAT, "version": RESULTS_VERSION, **dataclasses.asdict(self)}
        return json.dumps(record, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a comparison back from its JSON text.

        Raises
        ------
        ValueError
            Where the text is no JSON object of this format and version, or is cut or changed.
        """
        try:
            record = json.loads(text, parse_constant=_refuse)
            name, version = record.pop("format"), record.pop("version")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            msg = f"results must be a JSON object with a format and a version. It can't be read ({error!r})."
            raise ValueError(msg) from error
        if name != RESULTS_FORMAT or version != RESULTS_VERSION:
            msg = (
                f"results must have format {RESULTS_FORMAT!r}, version {RESULTS_VERSION}. "
                f"Got {name!r}, version {version!r} instead; run fit again, or use the release that wrote them."
            )
            raise ValueError(msg)
        try:
            record["folds"] = tuple(Folds(**_tuples(folds)) for folds in record["folds"])
            record["differences"] = tuple(
                Difference(**{OLD_NAMES.get(name, name): value for name, value in values.items()})
                for values in record["differences"]
            )
            record["results"] = tuple(_result(result) for result in record["results"])
            if record.get("projection") is not None:
                record["projection"] = Projection(**_tuples(record["projection"]))
            comparison = cls(**_tuples(record))
        except (TypeError, KeyError, AttributeError) as error:
            msg = f"results must have the fields of a comparison. They can't be read ({error})."
            raise ValueError(msg) from error
        for field in dataclasses.fields(cls):
            if not _is_of(getattr(comparison, field.name), field.type):
                msg = f"results must have the fields of a comparison. {field.name!r} holds something else; the file was changed."
                raise ValueError(msg)
        return comparison


def _refuse(constant: str) -> NoReturn:
    msg = f"{constant} is no number"
    raise ValueError(msg)


def _result(record: dict[str, Any]) -> Result:
    for field in dataclasses.fields(Result):
        if field.type is Estimate:
            record[field.name] = Estimate(**record[field.name])
        elif field.type is Spread:
            record[field.name] = Spread(**record[field.name])
    if record.get("calibration") is not None:
        record["calibration"] = Calibration(**_tuples(record["calibration"]))
    return Result(**_tuples(record))


def _tuples(record: dict[str, Any]) -> dict[str, Any]:
    """JSON knows lists only; the nouns hold tuples, so that they stay as they were written."""
    return {key: _tuple(value) if isinstance(value, list) else value for key, value in record.items()}


def _tuple(values: list[Any]) -> tuple[Any, ...]:
    return tuple(_tuple(value) if isinstance(value, list) else value for value in values)


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of the type that a field is declared with, whatever a stranger's file may hold."""
    origin, kinds = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        fields = dataclasses.fields(kind)
        return type(value) is kind and all(_is_of(getattr(value, one.name), one.type) for one in fields)
    if origin is UnionType:
        return any(_is_of(value, one) for one in kinds)
    if origin is Mapping:
        return isinstance(value, dict) and all(_is_of(each, kinds[1]) for each in value.values())
    if origin is tuple and kinds[-1] is ...:
        if not isinstance(value, tuple) or kinds[0] in (int, str):
            return isinstance(value, tuple) and {type(each) for each in value} <= {kinds[0]}
        return all(_is_of(each, kinds[0]) for each in value)
    if origin is tuple:
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_is_of, value, kinds))
    if kind is float:
        return (
            type(value) in (int, float) and abs(value) <= sys.float_info.max
        )  # not so where it is no number
    return kind is Any or type(value) is kind
