"""Every exercise answers: the stub is told so, the folded solution passes, each named wrong answer hears its cause.

And a class gets the same exercises without their solutions.
"""
import errno
import json
import re
from pathlib import Path

import pytest

from conftest import ROOT, exercises, questions, run, source
from vae_nbdev.exercises import find_exercises, hand_out, write_exercises

ANSWERS = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted((ROOT / "tests/exercises").glob("*.json"))}


def test_every_exercise_has_its_wrong_answers(notebooks):
    """At least two of them, with causes that differ."""
    named = {name: sorted(checker for checker, *_ in exercises(nb)) for name, nb in notebooks.items()}
    assert {name: found for name, found in named.items() if found} == {name: sorted(a) for name, a in ANSWERS.items()}
    assert not [(name, checker) for name, chapter in ANSWERS.items() for checker, wrong in chapter.items() if len({w["says"] for w in wrong}) < 2]


@pytest.mark.parametrize("name", ANSWERS)
def test_exercises_have_one_form(name, notebooks):
    """Stub, checker, folded hint, folded solution; what is stored is the answer to an unsolved stub."""
    for checker, checked, cell, folds in exercises(notebooks[name]):
        assert folds[0].startswith("<details><summary>Hint</summary>\n\n"), checker
        assert folds[1].startswith("<details><summary>Solution</summary>\n\n"), checker
        assert re.search(rf"```python\n(.*\n)*def {checked}\(", folds[1]), checker
        stored = "".join(text for o in cell["outputs"] for text in o.get("data", {}).get("text/plain", []))
        assert stored == "'not solved yet'", checker


HEAD = re.compile(r"\*\*(\d+)\. [^*]+[.?]\*\* (★☆☆ \(warm-up\)|★★☆ \(practice\)|★★★ \(challenge\)) \S")


@pytest.mark.parametrize("name", ANSWERS)
def test_exercises_are_numbered_and_in_order_of_difficulty(name, notebooks):
    """`**2. Title.** ★★☆ (practice) Text`; three to five in a chapter of the first three parts."""
    cells = notebooks[name]["cells"]
    start = next(i for i, c in enumerate(cells) if c["cell_type"] == "markdown" and re.search(r"^## Exercises$", source(c), re.M))
    heads = [HEAD.match(source(c)) for c in cells[start + 1:] if c["cell_type"] == "markdown" and source(c).startswith("**")]
    assert all(heads) and [int(m[1]) for m in heads] == [*range(1, len(heads) + 1)]
    assert len(heads) == len([*exercises(notebooks[name])])
    stars = [m[2].count("★") for m in heads]
    assert stars == sorted(stars)
    assert name[0] > "2" or 3 <= len(heads) <= 5


@pytest.mark.slow
@pytest.mark.parametrize("chapter", [f"{name}.ipynb" for name in ANSWERS])
def test_exercises_answer(chapter, executed, notebooks):
    """The solution is right; each named wrong answer is refused with its cause. Asked at the end of the wheel's run."""
    name = chapter.removesuffix(".ipynb")
    done, answers = executed(chapter)
    assert answers is not None, done.stderr[-3000:]
    said = iter(zip(questions(chapter, notebooks[name]), answers, strict=True))
    for checker, *_ in exercises(notebooks[name]):
        (_, answer) = next(said)
        assert answer.startswith("solved"), (checker, answer)
        for case in ANSWERS[name][checker]:
            (_, _, code), answer = next(said)
            assert code == case["wrong"] and answer.startswith("not yet") and case["says"] in answer, (checker, code, answer)


def read(folder):
    return {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.ipynb"))}


def bare(code):
    """A cell's code without directives and empty lines."""
    return [line for line in code.splitlines() if line.strip() and not line.startswith("#|")]


@pytest.mark.parametrize("hints", [False, True])
def test_a_class_gets_all_but_the_solutions(hints, notebooks, tmp_path):
    made = write_exercises(tmp_path / "new" / "handout", hints)
    given = read(tmp_path / "new" / "handout")
    assert [path.stem for path in made] == [*given] == [name for name, nb in notebooks.items() if find_exercises(nb)]
    for name, nb in given.items():
        text = "\n".join(map(source, nb["cells"]))
        folds = [fold for *_, folds in exercises(notebooks[name]) for fold in folds]
        assert [fold in text for fold in folds] == [hints, False] * len(find_exercises(notebooks[name])), name
        for solution in folds[1::2]: assert re.search(r"```python\n(.*?)```", solution, re.S)[1].strip() not in text
        assert "colab.research" not in text and not re.search(r"^#\|", text, re.M) and not any(c.get("outputs") for c in nb["cells"])
        code, before = ([c for nb in pair if (c := bare(source(nb)))] for pair in (
            [c for c in cells if c["cell_type"] == "code"] for cells in (nb["cells"], notebooks[name]["cells"])))
        assert [[line for line in cell if not line.startswith("# Slow: this cell")] for cell in code] == before
        linked = re.findall(r"\]\((\w+)\.ipynb", text)
        assert set(linked) <= set(given), "a link to what is not handed out"


def test_what_a_class_gets_is_a_notebook(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    for path in write_exercises(tmp_path): nbformat.validate(nbformat.read(path, as_version=4))


@pytest.mark.parametrize("there", ["file", "folder"])
def test_what_is_there_is_kept(there, tmp_path):
    out = tmp_path / "work"
    kept = out if there == "file" else out / "solved.ipynb"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    with pytest.raises(ValueError, match=f"out must be a folder.*{re.escape(str(out))}.*(is a file|holds something)"): write_exercises(out)
    assert kept.read_text() == "mine" and len([*tmp_path.rglob("*")]) == (1 if there == "file" else 2)


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    written, write_text = [], Path.write_text
    def fails(path, *args, **options):
        if len(written) == 2: raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        return write_text(path, *args, **options)
    monkeypatch.setattr(Path, "write_text", fails)
    with pytest.raises(OSError, match="cannot write to .*: No space left on device"): write_exercises(tmp_path / "out")
    assert len(written) == 2 and [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_solution_that_cannot_be_found_is_not_handed_out(notebooks):
    chapter = notebooks["04_loss"]
    cells = [c | {"source": source(c).replace("<summary>Solution", "<summary>The solution")} for c in chapter["cells"]]
    with pytest.raises(ValueError, match=f"'The loss, in nats' has 0 for {len(find_exercises(chapter))}"): hand_out(chapter | {"cells": cells})


@pytest.mark.slow
def test_the_wheel_brings_the_same_exercises(wheel_python, tmp_path):
    done = run(wheel_python, "-c", "from vae_nbdev.exercises import write_exercises; write_exercises('out')", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    write_exercises(tmp_path / "here")
    assert read(tmp_path / "out") == read(tmp_path / "here") != {}
