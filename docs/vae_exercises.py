"""The site's page of exercises, and the anchors it links to; `vae_site` calls both.

An exercise is what `vae_nbdev.exercises` finds: a title with marks, `**2. Title.** ★★☆ (practice) Text`. The stars are for
the eye: a screen reader is told the word in brackets, and the stars are hidden from it.
"""
import re
from collections import Counter

from docutils import nodes

from vae_nbdev.exercises import MARKS, find_exercises

HEAD = re.compile(rf"\s*({'|'.join(MARKS)})(?= \()")


def label(chapter, number):
    return f"exercise-{chapter.number}-{number}"


def stars(marks):
    return f'<span class="marks" aria-hidden="true">{marks}</span>'


def exercises_page(project):
    "All exercises by part and chapter, each with its difficulty and a link."
    found = {c: find_exercises(project.notebooks[c.docname]) for c in project.chapters.values()}
    count = Counter(e.marks for listed in found.values() for e in listed)
    kinds = [f"{stars(marks)} {word} ({count[marks]})" for marks, word in MARKS.items()]
    out = ["# Exercises", "> Build it, mend it, or predict it before you measure", "",
           f"{sum(count.values())} exercises: {', '.join(kinds)}. Each has a stub to fill in and a checker that names the cause of a "
           "likely mistake; a hint and a solution are folded below it."]
    if "91_exercises" in project.chapters: out += ["", "[Exercises for a class](91_exercises.ipynb) makes notebooks without solutions of them."]
    part = None
    for chapter, listed in found.items():
        if not listed: continue
        if chapter.part != part: out += ["", f"## {(part := chapter.part)}"]
        out += ["", f"### [{chapter.number} {chapter.title}]({chapter.docname}.ipynb)", "", "{.exercises}"]
        out += [f"- {stars(e.marks)} {{ref}}`{e.title.rstrip('.')} <{label(chapter, e.number)}>` ({MARKS[e.marks]})" for e in listed]
    return "\n".join(out) + "\n"


def mark_exercises(app, doctree):
    "Of each exercise of a chapter, an anchor, and its stars hidden from screen readers."
    chapter = app.vae_project.chapters.get(app.env.docname)
    for strong in list(doctree.findall(nodes.strong)) if chapter else []:
        block, number = strong.parent, re.match(r"(\d+)\. ", strong.astext())
        after = block[block.index(strong) + 1] if block.index(strong) + 1 < len(block) else None
        if not number or not isinstance(after, nodes.Text) or not (head := HEAD.match(after)): continue
        name = label(chapter, number[1])
        block["ids"].append(name)
        app.env.domains["std"].anonlabels[name] = app.env.docname, name
        block.replace(after, [nodes.Text(" "), nodes.raw("", stars(head[1]), format="html"), nodes.Text(after[head.end():])])
