"""What the report says about the choice."""

from __future__ import annotations

import json

import pytest

from charloom.report import judgement
from charloom.report.gather import gather
from charloom.report.page import page


def good(step: int, **scores: float) -> dict:
    return {"step": step, "verdict": "good", "reasons": [], "scores": {"obedience": 0.9, "bleed": 0.0} | scores}


def chosen(results, settings, **choice):
    (results / "validation.json").write_text(json.dumps({"step": 100, "how": "rule", "why": []} | choice))
    return gather(results, settings)


def test_a_better_checkpoint_that_was_not_chosen_is_named_with_what_is_better(results, settings):
    verdicts = [good(50, identity=0.912, obedience=0.99), good(100, identity=0.92)]
    line, rule = judgement.others(chosen(results, settings, verdicts=verdicts))
    assert "Step 50 is good too: identity 0.91 (worse than 0.92), obedience 0.99 (better than 0.90)" in line
    assert "about the same bleed" in line and "latest" in rule


def test_a_difference_that_says_nothing_is_no_better_and_no_worse(results, settings):
    m = chosen(results, settings, verdicts=[good(50, identity=0.882), good(100, identity=0.881)])
    assert "about the same identity" in judgement.others(m)[0] and "than" not in judgement.others(m)[0]


def test_a_lower_bleed_is_better(results, settings):
    m = chosen(results, settings, verdicts=[good(50, bleed=0.05), good(100, bleed=0.1)])
    assert "bleed 0.05 (better than 0.10)" in judgement.others(m)[0]


def test_what_the_choice_says_of_a_checkpoint_is_not_said_twice(results, settings):
    verdicts = [good(100), good(150)]
    m = chosen(results, settings, verdicts=verdicts, why=["Step 150 was not chosen (good): it leaks."])
    assert judgement.others(m) == []
    assert len(judgement.others(chosen(results, settings, verdicts=verdicts, why=["Step 1500 is bad."]))) == 2


def test_a_column_of_scores_has_as_many_decimals_as_tell_them_apart(results, settings):
    verdicts = [good(50, identity=0.916, obedience=0.5), good(100, identity=0.92, obedience=0.7)]
    rows = judgement.verdicts(chosen(results, settings, verdicts=verdicts))["rows"]
    assert [dict(row["values"])["Identity"] for row in rows] == ["0.916", "0.920"]
    assert [dict(row["values"])["Obedience"] for row in rows] == ["0.50", "0.70"]


def test_what_failed_at_the_chosen_step_links_to_its_file(results, settings):
    path = results / "scores/step-000100.json"
    document = json.loads(path.read_text())
    document["rows"].append({"prompt": "02", "metric": "bleed.earrings", "value": 1.0, "seed": 42, "strength": 1.0})
    for row in document["rows"]:
        if (row["prompt"], row["metric"]) == ("02", "identity_relative"):
            row["value"] = 0.6499
    path.write_text(json.dumps(document))
    first, second = judgement.failures(gather(results, settings))
    assert (first["prompt"], first["faults"]) == ("01", ["outfit: asked for gown, got hoodie"])
    assert first["file"] == "samples/step-000100/01.png" and (results / first["file"]).is_file()
    assert second["faults"][0].endswith("identity 0.6499, below 0.65") or "0.65" in second["faults"][0]
    assert "earrings" in second["faults"][1]
    assert 'href="samples/step-000100/02.png"' in page(gather(results, settings))


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (("identity_relative", "obedience"), "every preview shows the character and what its prompt asks for."),
        (("obedience",), "every preview shows what its prompt asks for."),
        ((), "Neither who is shown nor what prompts ask for was scored: compare the previews by eye."),
    ],
)
def test_nothing_is_said_to_have_passed_that_was_not_measured(results, settings, metrics, said):
    path = results / "scores/step-000100.json"
    document = json.loads(path.read_text())
    rows = [{"prompt": "01", "metric": one, "value": 1.0, "seed": 42, "strength": 1.0} for one in (*metrics, "detail")]
    path.write_text(
        json.dumps({**document, "rows": rows, "misses": {}, "not_scored": ["identity_relative", "identity"]})
    )
    text = page(m := chosen(results, settings))
    assert f"{said}</p>" in text and ("Nothing that was scored" in text) == bool(metrics)
    assert [name for name, _ in judgement.unscored(m)] == ["identity"]


@pytest.mark.parametrize(
    "entry",
    [
        {"identity": "no face was found; install charloom[photo]"},
        [{"metric": "identity", "reason": "no face was found;", "remedy": "install charloom[photo]"}],
        [["identity", "no face was found; install charloom[photo]"]],
    ],
)
def test_a_judges_own_reason_for_what_it_did_not_score_is_quoted(results, settings, entry):
    m = chosen(results, settings, not_scored=["identity"])
    m.scores[100]["not_scored"] = entry
    assert judgement.unscored(m) == [("identity", "no face was found; install charloom[photo]")]


def test_a_judge_says_who_measured_what_and_how_to_get_the_rest(results, settings):
    path = results / "scores/step-000100.json"
    more = {
        "not_scored": ["identity"],
        "remedies": ["identity is not scored; to have it scored install <dlib>"],
        "instruments": ["obedience by siglip"],
        "coverage": {"identity": [7, 10], "bleed": [10, 10]},
        "misses": {"02": ["copy: the picture is nearly closeup-01 of the training pictures (0.93)"]},
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    m = gather(results, settings)
    assert judgement.unscored(m) == [("identity", "to have it scored install <dlib>")]
    assert judgement.judges(m) == ["obedience by siglip", "identity was measured on 7 of 10 previews of step 100"]
    assert judgement.copied(m) == {"closeup-01": ["02"]}
    text = page(m)
    assert "install &lt;dlib&gt;" in text and "nearly copied by the preview of prompt 02" in text


def test_what_no_judge_explains_is_explained_by_the_page(results, settings):
    ((name, how),) = judgement.unscored(chosen(results, settings, not_scored=["identity"]))
    assert name == "identity" and "judge" in how and "paperdoll" in how
    assert "What was not scored" in page(chosen(results, settings, not_scored=["identity"]))


def test_findings_stand_below_the_pictures_they_are_about(results, settings):
    found = [
        {"level": "warning", "where": "medium-01", "what": "is nearly the same as closeup-01"},
        {"level": "note", "where": "fullbody-01", "what": "is fine"},
    ]
    (results / "lint.json").write_text(json.dumps({"errors": 0, "warnings": 1, "findings": found}))
    text = page(gather(results, settings))
    assert text.count('<p class="flag">') == 2
    assert '<p class="flag">medium-01: is nearly the same as closeup-01</p>' in text
