"""Every exercise answers: the stub is told so, the folded solution passes, each named wrong answer hears its cause."""
import json
import re

import pytest

from conftest import ROOT, exercises, questions

ANSWERS = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted((ROOT / "tests/exercises").glob("*.json"))}


def test_every_exercise_has_its_wrong_answers(notebooks):
    named = {name: sorted(checker for checker, *_ in exercises(nb)) for name, nb in notebooks.items()}
    assert {name: found for name, found in named.items() if found} == {name: sorted(a) for name, a in ANSWERS.items()}
    assert all(wrong for chapter in ANSWERS.values() for wrong in chapter.values())


@pytest.mark.parametrize("name", ANSWERS)
def test_exercises_have_one_form(name, notebooks):
    """Stub, checker, folded hint, folded solution; what is stored is the answer to an unsolved stub."""
    for checker, checked, cell, folds in exercises(notebooks[name]):
        assert folds[0].startswith("<details><summary>Hint</summary>\n\n"), checker
        assert folds[1].startswith("<details><summary>Solution</summary>\n\n"), checker
        assert re.search(rf"```python\n(.*\n)*def {checked}\(", folds[1]), checker
        stored = "".join(text for o in cell["outputs"] for text in o.get("data", {}).get("text/plain", []))
        assert stored == "'not solved yet'", checker


@pytest.mark.slow
@pytest.mark.parametrize("chapter", [f"{name}.ipynb" for name in ANSWERS])
def test_exercises_answer(chapter, executions, notebooks):
    """The solution is right; each named wrong answer is refused with its cause. Asked at the end of the wheel's run."""
    name = chapter.removesuffix(".ipynb")
    done, answers = executions[chapter].result()
    assert answers is not None, done.stderr[-3000:]
    said = iter(zip(questions(chapter, notebooks[name]), answers, strict=True))
    for checker, *_ in exercises(notebooks[name]):
        (_, answer) = next(said)
        assert answer.startswith("solved"), (checker, answer)
        for case in ANSWERS[name][checker]:
            (_, _, code), answer = next(said)
            assert code == case["wrong"] and answer.startswith("not yet") and case["says"] in answer, (checker, code, answer)
