"""One row of a comparison, closely: its recalls, speakers, sexes and probabilities, and what the script needs to redraw them."""

from collections import Counter

from classify.diagrams import reliability, reliability_words
from classify.markup import figure_html
from classify.plots import dots, row_title
from classify.results import Comparison, Estimate, Result
from classify.tables import METRICS, interval, percent, printable, title

# Beyond this many speakers the figure scrolls inside its own box.
MAX_TALL = 30
_SEX_KINDS = {"female": 0, "male": 1}


def leading_estimates(result: Result) -> dict[str, Estimate]:
    """Accuracy, balanced accuracy and macro F1, by their names in words; the balanced one leads."""
    order = ("balanced_accuracy", "accuracy", "f1_macro")
    return {METRICS[name]: getattr(result, name) for name in order}


def row_sentence(comparison: Comparison, result: Result) -> str:
    """Return a row's scores in words."""
    scores = "; ".join(f"{name} {interval(estimate)}" for name, estimate in leading_estimates(result).items())
    folds = result.fold_balanced_accuracy
    return printable(
        f"{title(comparison, result)}: {scores}. Per fold, balanced accuracy is {percent(folds.mean)} on average, "
        f"with a standard deviation of {percent(folds.std)}."
    )


def row_record(comparison: Comparison, result: Result) -> dict[str, object]:
    """Return what the page's script shows of a row, in the order of the figures' names."""
    return {
        "short": row_title(comparison, result),
        "sentence": row_sentence(comparison, result),
        "confusion": result.confusion,
        "recall": result.recall,
        "speakers": [result.speaker_scores.get(speaker) for speaker in speaker_names(comparison)],
        "sexes": [result.sex_scores.get(sex) for sex in known_sexes(comparison)],
        "mean": result.balanced_accuracy.value,
        "calibration": None
        if (measured := result.calibration) is None
        else list(zip(measured.counts, measured.confidences, measured.accuracies, strict=True)),
        "reliability": reliability_words(result.calibration),
    }


def speaker_names(comparison: Comparison) -> list[str]:
    """Return the speakers, sorted."""
    return sorted(set(comparison.speakers))


def known_sexes(comparison: Comparison) -> list[str]:
    """Return the sexes that are known, sorted."""
    return sorted(set(comparison.sexes) - {""})


def recall_figure(comparison: Comparison) -> str:
    """Return the best row's recall of each emotion."""
    best, counts = comparison.best, Counter(comparison.of_tested(comparison.truth))
    svg = dots(
        comparison.labels,
        best.recall,
        best.balanced_accuracy.value,
        what="recall",
        name=row_title(comparison, best),
        details=[str(counts[i]) for i in range(len(comparison.labels))],
    )
    caption = "Per cent of each emotion that was recognised; small numbers count its utterances."
    return figure_html("recall", "Recall of each emotion", svg, caption)


def speakers_figure(comparison: Comparison) -> str:
    """Return the best row's score of each speaker."""
    best, people = comparison.best, speaker_names(comparison)
    sexes = dict(zip(comparison.speakers, comparison.sexes, strict=True))
    counts = Counter(comparison.of_tested(comparison.speakers))
    svg = dots(
        people,
        [best.speaker_scores.get(speaker) for speaker in people],
        best.balanced_accuracy.value,
        what="speakers",
        name=row_title(comparison, best),
        kinds=[_SEX_KINDS.get(sexes[speaker], 2) for speaker in people],
        details=[str(counts[speaker]) for speaker in people],
    )
    shapes = {"female": "circles are female", "male": "squares male", "": "triangles unknown"}
    shown = ", ".join(shapes[sex] for sex in shapes if sex in set(sexes.values()))
    caption = f"Balanced accuracy over the speaker's own utterances, counted in small; {shown}."
    return figure_html("speakers", "Each speaker", svg, caption, tall=len(people) > MAX_TALL)


def sexes_figure(comparison: Comparison) -> str:
    """Return the best row's score of each sex; nothing where there are not two."""
    best, sexes = comparison.best, known_sexes(comparison)
    if len(sexes) < 2:
        return ""
    counts = Counter(comparison.of_tested(comparison.sexes))
    svg = dots(
        sexes,
        [best.sex_scores.get(sex) for sex in sexes],
        best.balanced_accuracy.value,
        what="sexes",
        name=row_title(comparison, best),
        kinds=[_SEX_KINDS.get(sex, 2) for sex in sexes],
        details=[str(counts[sex]) for sex in sexes],
    )
    return figure_html(
        "sexes",
        "Women and men",
        svg,
        "Balanced accuracy over the group's utterances, counted in small; the lowest is marked.",
    )


def reliability_figure(comparison: Comparison) -> str:
    """Return how far the best row's probabilities hold; nothing where no row has any."""
    if all(result.calibration is None for result in comparison.results):
        return ""
    best = comparison.best
    return figure_html(
        "reliability",
        "How sure, and how often right",
        reliability(best.calibration, row_title(comparison, best)),
        "Bars: share of right answers by the probability of the predicted emotion, in bins; dots: at the mean probability "
        "of a bin. On the dashed line probabilities can be taken at their word, below it they promise too much. Grey: how many.",
    )
