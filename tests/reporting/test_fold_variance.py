from __future__ import annotations

from nivesh_lib.reporting import fold_variance


def texts(part):
    return [[cell.text for cell in row] for row in part.table.rows]


def test_repeats_have_a_mean_over_all_their_folds(record):
    part = fold_variance.repeats(record)
    (recorded,) = record["repeats"]
    assert texts(part) == [["weak", f"{recorded['value']:.3f}", f"{recorded['std']:.3f}", "10"]]
    assert part.title and "Nadeau-Bengio" in part.note


def test_a_learning_curve_is_a_row_with_a_column_for_each_size_and_its_reading(record):
    part = fold_variance.learning(record)
    assert part.table.columns == ("Macro-F1 with …", "30 rows", "60 rows", "120 rows", "240 rows")
    scores = [f"{row['macro_f1']:.3f}" for row in record["learning"]]
    assert texts(part) == [["weak", *scores]] and part.figure == "learning"
    assert part.sentences == (f"weak: {record['readings'][0]['reading']}",)


def test_a_size_that_one_model_lacks_is_not_measured(record):
    other = {**record["learning"][0], "model": "good"}
    part = fold_variance.learning({**record, "learning": [*record["learning"], other]})
    assert [cell.text for cell in part.table.rows[0]][2:] == ["not measured"] * 3


def test_scores_by_time_name_the_model_and_warn_of_mixed_folds(record):
    part = fold_variance.over_time(record)
    assert texts(part)[0][:2] == ["2026-01-01 to 2026-03-01", "60"] and len(part.table.rows) == 5
    assert "good" in part.sentences[0] and "not that the model has aged" in part.note


def test_scores_after_a_date_say_what_was_trained_on_and_until_when_was_tested(record):
    part = fold_variance.temporal(record)
    first, *_, last = record["temporal"]
    assert part.table.rows[0][0].soft == f"trained before {first['cut']}"
    assert texts(part)[0][1:4] == [str(first["n_train"]), first["until"], str(first["n_test"])]
    assert texts(part)[-1][2] == "the end" and last["until"] == ""
