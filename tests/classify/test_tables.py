import csv
import dataclasses
import io
import re

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

from classify.results import Difference, Estimate
from classify.tables import (
    FORMULA_STARTS,
    caution,
    defuse,
    headline,
    interval,
    is_random,
    latex_escape,
    latex_table,
    markdown_escape,
    markdown_report,
    marks,
    percent,
    predictions_csv,
    printable,
    render_plain,
    render_table,
    results_csv,
    shown_results,
    title,
)


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text)))


def printed(table, width):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(table)
    return console.file.getvalue()


def with_model_id(comparison, model_id):
    caches = {name: {**spec, "model_id": model_id} for name, spec in comparison.caches.items()}
    return dataclasses.replace(comparison, caches=caches)


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0.0"), (1, "100.0"), (0.724, "72.4"), (0.0625, "6.3"), (2 / 3, "66.7")]
)
def test_per_cent_rounds_half_up(share, text):
    assert percent(share) == text


def test_an_interval_stands_in_brackets():
    assert interval(Estimate(value=0.724, low=0.661, high=0.785)) == "72.4 [66.1, 78.5]"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("سعادت\u200c", "سعادت\u200c"),
        ("a\x1b[2Jb", "a�[2Jb"),
        ("exe.\u202efdp", "exe.�fdp"),
        ("a\nb\t", "a�b�"),
        ("a\u2028b\u200fc", "a�b�c"),
        ("\udc80", "�"),
    ],
)
def test_what_steers_a_terminal_is_not_printed_and_letters_are(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("model_id", "random"),
    [
        ("random-wav2vec2", True),
        ("demo/tiny-wav2vec2-randomly-initialised", True),
        ("Untrained", True),
        ("facebook/wav2vec2-base", False),
        ("facebook/prandom", False),
    ],
)
def test_an_encoder_that_says_it_is_random_is_marked(small_comparison, model_id, random):
    comparison = with_model_id(small_comparison, model_id)
    assert is_random(comparison, "emodb-hubert") is random
    assert ("randomly initialised" in marks(comparison, comparison.best)) is random


def test_a_note_marks_the_cache_that_it_names(small_comparison):
    note = "The encoder of emodb-hubert is randomly initialised."
    comparison = dataclasses.replace(small_comparison, notes=(note,))
    assert is_random(comparison, "emodb-hubert")
    assert not is_random(comparison, "emodb-wav2vec2")


def test_the_headline_answers_in_plain_words(emodb_comparison):
    best = emodb_comparison.best
    assert headline(emodb_comparison) == (
        f"On speakers not heard in training, {best.classifier} on layer {best.layer} of facebook/hubert-base-ls960 tells "
        f"7 emotions apart with {percent(best.balanced_accuracy.value)} % balanced accuracy."
    )


def test_the_headline_says_that_layers_were_chosen_that_speakers_were_known_and_that_nothing_was_learnt(
    small_comparison,
):
    optimistic = [result for result in small_comparison.results if result.optimistic]
    optimistic = [dataclasses.replace(result, layer=None, selection="best") for result in optimistic]
    text = headline(
        with_model_id(dataclasses.replace(small_comparison, results=tuple(optimistic)), "random-hubert")
    )
    assert text.startswith("With the test speakers also in training (optimistic), ")
    assert "on a layer chosen in each training part of" in text
    assert "(randomly initialised)" in text


def test_the_caution_gives_interval_speakers_protocol_and_that_the_best_was_picked(emodb_comparison):
    text, score = caution(emodb_comparison), emodb_comparison.best.balanced_accuracy
    assert (
        f"{percent(score.low)} to {percent(score.high)}, from 10 speakers under leave-one-speaker-out" in text
    )
    assert "guessing gives 14.3 %" in text
    assert "the best of 52, picked by the very scores that are shown" in text


def test_what_is_not_tested_is_not_counted(emodb_comparison):
    folds = emodb_comparison.folds[0]
    tested = [0 if label < 2 else -1 for label in emodb_comparison.truth]
    folds = dataclasses.replace(folds, tested_in=(tuple(tested),))
    some = dataclasses.replace(emodb_comparison, folds=(folds, *emodb_comparison.folds[1:]))
    assert "tells 2 emotions apart" in headline(some)
    assert (
        "guessing gives 50.0 %. Learnt and not tested: disgust, fear, happiness, neutral, sadness."
        in caution(some)
    )
    assert "not tested" not in caution(emodb_comparison)


def test_a_single_row_was_not_picked(small_comparison):
    single = dataclasses.replace(
        small_comparison,
        results=small_comparison.results[:1],
        speakers=("one",) * len(small_comparison.truth),
    )
    assert "best of" not in caution(single)
    assert "from 1 speaker under" in caution(single)


def test_how_a_classifier_was_trained_stands_in_every_table(small_comparison):
    first, *others = small_comparison.results
    row = dataclasses.replace(first, tuned=True, class_weight="balanced")
    comparison = dataclasses.replace(small_comparison, results=(first, row, *others))
    said = f"{row.classifier}, tuned, balanced"
    for render in (markdown_report, latex_table, render_plain, predictions_csv):
        assert render(comparison).count(said) == 1
        assert said not in render(small_comparison)
    assert [line["classifier"] for line in read_csv(results_csv(comparison))][:2] == [row.classifier, said]
    assert "tuned," in printed(render_table(comparison), 120)
    alone = dataclasses.replace(comparison, results=(row,))
    assert f", {row.classifier} (tuned, balanced) on layer " in headline(alone)
    # They are two systems, each with a best layer.
    kinds = {(result.system, result.selection, result.protocol) for result in comparison.results}
    assert len(shown_results(comparison, 1)) == len(kinds)
    assert row in shown_results(comparison, 1) or others[0].system != row.system


def test_many_rows_shrink_to_the_best_layer_of_each_kind(emodb_comparison):
    shown = shown_results(emodb_comparison, 60)
    assert (
        shown_results(emodb_comparison, None)
        == shown_results(emodb_comparison, 104)
        == emodb_comparison.results
    )
    assert len(shown) == 2 * 2 * 2
    for result in shown:
        kind = (result.cache, result.classifier, result.protocol)
        rivals = [
            rival.balanced_accuracy.value
            for rival in emodb_comparison.results
            if (rival.cache, rival.classifier, rival.protocol) == kind
        ]
        assert len(rivals) == 13
        assert result.balanced_accuracy.value == max(rivals)
    assert emodb_comparison.best in shown


def test_the_terminal_table_fits_80_columns_with_every_score(emodb_comparison):
    text = printed(render_table(emodb_comparison, limit=None), 80)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    for result in emodb_comparison.results:
        cells = [
            f"{percent(score.value)} {100 * score.low:3.0f}\N{EN DASH}{100 * score.high:.0f}"
            for score in (result.accuracy, result.balanced_accuracy, result.f1_macro)
        ]
        assert any(all(cell in line for cell in cells) and result.classifier in line for line in lines)
    assert "out of 104 rows" in printed(render_table(emodb_comparison), 80)


def test_the_terminal_table_marks_the_best_row_once_and_each_optimistic_row(emodb_comparison):
    table = render_table(emodb_comparison, limit=None)
    first, features = table.columns[0]._cells, table.columns[1]._cells
    assert [i for i, cell in enumerate(first) if cell == "▸"] == [
        emodb_comparison.results.index(emodb_comparison.best)
    ]
    for result, cell in zip(emodb_comparison.results, features, strict=True):
        assert ("optimistic" in cell.plain) is result.optimistic


def test_the_terminal_shows_hostile_names_as_they_stand(small_comparison):
    results = [
        dataclasses.replace(result, cache="[red]\x1b[31mx", pooling=pooling)
        for result, pooling in zip(small_comparison.results, ["mean", "std"] * 8, strict=True)
    ]
    text = printed(render_table(dataclasses.replace(small_comparison, results=tuple(results))), 120)
    assert "[red]�[31mx, mean" in text
    assert "\x1b" not in text


def test_plain_lines_hold_every_row_and_score(small_comparison):
    rows = list(csv.DictReader(io.StringIO(render_plain(small_comparison)), delimiter="\t"))
    assert len(rows) == len(small_comparison.results)
    for row, result in zip(rows, small_comparison.results, strict=True):
        assert [row["features"], row["layer"], row["classifier"]] == [
            result.cache,
            result.layers,
            result.classifier,
        ]
        assert float(row["f1_macro_low"]) == pytest.approx(result.f1_macro.low, abs=5e-5)
        assert float(row["accuracy"]) == pytest.approx(result.accuracy.value, abs=5e-5)
        assert ("best" in row["note"]) is (result is small_comparison.best)
        assert ("optimistic" in row["note"]) is result.optimistic


def test_plain_lines_stay_lines_whatever_the_names(hostile_comparison):
    lines = render_plain(hostile_comparison).splitlines()
    assert len(lines) == 1 + len(hostile_comparison.results)
    assert {line.count("\t") for line in lines} == {lines[0].count("\t")}


def test_results_csv_holds_every_number_in_full(small_comparison):
    rows = read_csv(results_csv(small_comparison))
    for row, result in zip(rows, small_comparison.results, strict=True):
        for metric in ("accuracy", "balanced_accuracy", "f1_macro"):
            estimate, spread = getattr(result, metric), getattr(result, f"fold_{metric}")
            assert (float(row[metric]), float(row[f"{metric}_low"])) == (estimate.value, estimate.low)
            assert float(row[f"{metric}_high"]) == estimate.high
            assert (float(row[f"fold_{metric}_mean"]), float(row[f"fold_{metric}_std"])) == (
                spread.mean,
                spread.std,
            )
        recall = tuple(float(row[f"recall_{label}"]) for label in small_comparison.labels)
        assert recall == result.recall
        assert (row["encoder"], row["layer"], row["protocol"]) == (
            result.encoder,
            result.layers,
            result.protocol,
        )
        assert row["marks"] == ("optimistic" if result.optimistic else "")


def test_a_recall_of_nothing_is_an_empty_cell(small_comparison):
    result = dataclasses.replace(small_comparison.results[0], recall=(None,) * 7)
    [row] = read_csv(results_csv(dataclasses.replace(small_comparison, results=(result,))))
    assert row["recall_anger"] == ""


def test_scikit_learn_finds_the_same_scores_in_predictions_csv(small_comparison):
    rows = read_csv(predictions_csv(small_comparison))
    assert len(rows) == 2 * 535
    for result in small_comparison.results:
        mine = [row for row in rows if row["protocol"] == result.protocol and row[result.title]]
        truth, predicted = ([row[column] for row in mine] for column in ("label", result.title))
        assert accuracy_score(truth, predicted) == pytest.approx(result.accuracy.value)
        assert balanced_accuracy_score(truth, predicted) == pytest.approx(result.balanced_accuracy.value)
        assert f1_score(truth, predicted, average="macro") == pytest.approx(result.f1_macro.value)
        matrix = confusion_matrix(truth, predicted, labels=small_comparison.labels)
        np.testing.assert_array_equal(matrix, result.confusion)


def test_predictions_name_the_fold_and_leave_out_what_was_not_tested(small_comparison):
    folds = small_comparison.folds[0]
    repetitions = (folds.tested_in[0], (-1, -1, *folds.tested_in[0][2:]))
    results = tuple(
        dataclasses.replace(result, predictions=(result.predictions[0], (-1, -1, *result.predictions[0][2:])))
        for result in small_comparison.results
        if not result.optimistic
    )
    repeated = dataclasses.replace(
        small_comparison, folds=(dataclasses.replace(folds, tested_in=repetitions),), results=results
    )
    rows = read_csv(predictions_csv(repeated))
    assert [sum(row["repetition"] == repetition for row in rows) for repetition in "01"] == [535, 533]
    # Leave one speaker out: the fold is named after the speaker.
    assert all(row["fold"] == row["speaker"] for row in rows)
    assert rows[535]["utterance_id"] == small_comparison.utterance_ids[2]


def test_equal_titles_get_a_column_each_and_missing_protocols_an_empty_cell(small_comparison):
    honest = small_comparison.results[0]
    twice = dataclasses.replace(small_comparison, results=(honest, dataclasses.replace(honest, seconds=2.0)))
    rows = read_csv(predictions_csv(twice))
    assert list(rows[0])[-2:] == [honest.title, f"{honest.title} #2"]
    assert {row[honest.title] for row in rows if row["protocol"] == "paper"} == {""}


@pytest.mark.parametrize("start", FORMULA_STARTS)
def test_a_formula_is_defused(start):
    assert defuse(f"{start}1+1") == f"'{start}1+1"
    assert defuse(f"a{start}") == f"a{start}"


def test_no_text_begins_a_row_of_its_own(small_comparison):
    ids = tuple(f"{identifier}\r=1+1" for identifier in small_comparison.utterance_ids)
    text = predictions_csv(dataclasses.replace(small_comparison, utterance_ids=ids))
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert {row[0] for row in rows[1:]} == set(ids)


def test_csv_tables_run_no_formula_and_keep_their_texts(hostile_comparison):
    for render in (results_csv, predictions_csv):
        rows = list(csv.reader(io.StringIO(render(hostile_comparison))))
        assert {len(row) for row in rows} == {len(rows[0])}
        assert not [cell for row in rows for cell in row if cell.startswith(FORMULA_STARTS)]
    ids = [row["utterance_id"] for row in read_csv(predictions_csv(hostile_comparison))][:535]
    assert ids == ["'" + identifier for identifier in hostile_comparison.utterance_ids]


def latex_cells(line):
    return re.split(r"(?<!\\)&", line)


def test_latex_holds_the_best_layers_and_the_best_row_bold(emodb_comparison):
    text = latex_table(emodb_comparison)
    rows = [latex_cells(line) for line in text.split(r"\midrule")[1].splitlines() if line.endswith(r"\\")]
    shown = shown_results(emodb_comparison, 30)
    assert len(rows) == len(shown) == 8
    for row, result in zip(rows, shown, strict=True):
        assert row[0].strip() == result.cache
        assert row[4].strip() == ("paper (optimistic)" if result.optimistic else result.protocol)
        score = result.balanced_accuracy
        assert percent(score.value) in row[6]
        assert f"[{percent(score.low)}, {percent(score.high)}]" in row[6]
        assert (r"\textbf" in row[6]) is (result == emodb_comparison.best)
    assert "out of 104 rows" in text
    assert "out of" not in latex_table(emodb_comparison, limit=104)


def test_latex_sets_hostile_names_as_they_stand(hostile_comparison):
    assert latex_escape("a_b^c~100%\\input{x}$&#") == (
        r"a\_b\textasciicircum{}c\textasciitilde{}100\%\textbackslash{}input\{x\}\$\&\#"
    )
    body = latex_table(hostile_comparison).split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert {len(latex_cells(line)) for line in body} == {8}
    for line in body:
        # Every command is ours.
        assert set(re.findall(r"\\([a-zA-Z]+)", line)) <= {"textbf", "scriptsize", "textless", "textgreater"}
        assert not re.search(r"(?<!\\)[#$%_^~]", line)
    # Bare, the first two would be arguments of the row end before them, and the others other characters.
    assert latex_escape("[2pt] *<|>") == r"{[}2pt] {*}\textless{}\textbar{}\textgreater{}"


def test_markdown_shows_every_row_and_the_best_rows_confusions(emodb_comparison):
    text = markdown_report(emodb_comparison)
    for result in emodb_comparison.results:
        score = interval(result.balanced_accuracy).replace("[", r"\[").replace("]", r"\]")
        assert any(f"| {result.layer} |" in line and score in line for line in text.splitlines())
    best = emodb_comparison.best
    row = "| anger | " + " | ".join(map(str, best.confusion[0])) + f" | {percent(best.recall[0])} |"
    assert row in text.splitlines()
    assert text.count("paper (optimistic)") == 52
    for said in (emodb_comparison.claim, emodb_comparison.audit, emodb_comparison.notes[1], "torch 2.13.0"):
        assert said in text


def test_markdown_gives_each_command_its_bullet(small_comparison):
    joined = dataclasses.replace(small_comparison, command="sslfeat fit a.h5 -o a\nsslfeat fit b.h5 -o b_1")
    assert "\n- command: sslfeat fit a.h5 -o a\n- command: sslfeat fit b.h5 -o b\\_1\n" in markdown_report(
        joined
    )
    assert "- command: none, called from Python\n" in markdown_report(dataclasses.replace(joined, command=""))


def test_markdown_lists_the_differences(small_comparison):
    differences = [
        Difference(
            first=2, second=5, difference=0.1234, p_permutation=0.01, p_corrected=0.03, p_resampled_t=0.2
        ),
        Difference(
            first=2, second=6, difference=0.02, p_permutation=0.5, p_corrected=1.0, p_resampled_t=None
        ),
    ]
    comparison = dataclasses.replace(small_comparison, differences=tuple(differences))
    text = markdown_report(comparison)
    assert f"Balanced accuracy of {title(comparison, comparison.results[2])} less that of its rivals." in text
    for place, cells in ((5, "12.3 | 0.0300 | 0.2000"), (6, "2.0 | 1.0000 | \N{EN DASH}")):
        assert f"| {title(comparison, comparison.results[place])} | {cells} |\n" in text
    assert "## Differences" not in markdown_report(small_comparison)


def test_markdown_keeps_hostile_names_inside_their_cells(hostile_comparison):
    assert markdown_escape("a|b<i>*&") == r"a\|b&lt;i&gt;\*&amp;"
    text = markdown_report(hostile_comparison)
    assert "<" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in tables}
    assert columns == {9, 10}


def test_a_title_names_the_protocol_only_where_there_are_several(small_comparison):
    paper = next(result for result in small_comparison.results if result.optimistic)
    assert title(small_comparison, paper) == "emodb-wav2vec2, layer 0, mean, logistic, paper (optimistic)"
    honest = small_comparison.results[0]
    alone = dataclasses.replace(small_comparison, folds=small_comparison.folds[:1])
    assert title(alone, honest) == "emodb-wav2vec2, layer 0, mean, logistic"
