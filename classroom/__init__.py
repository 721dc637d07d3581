"""The teacher's side: hand out, hand in, grade, give back, and see what a class misunderstood.

It imports `mamlpp`, and nothing imports it. How a submission travels through it:

 1. `handout`: the source of a set, in `exercises/`, becomes a zip without solutions
    (`versions`), with a stamp (`stamps`).
 2. `grade` is the command. `sets` prepares each set: what was handed out, all of its tests, with
    the hidden ones on secret numbers, and the points.
 3. `handins`: which file is whose, and of which set; `recognise`: which cell is which. A file that
    cannot be run becomes a submission with a fault.
 4. `records`: if nothing has changed since it was graded, the grade is there already.
 5. `repair`: halves of a split cell are joined, blank copies and lines for a shell are left out,
    and our tests are put into the test cells. `canary` adds a wrong answer for each test.
 6. `kernels` forks a kernel from a warm process, `inside/template.py`, which puts up the wall,
    `inside/wall.py`, a filter of the system's calls, `inside/calls.py`, and the audit hook,
    `inside/sitecustomize.py`, around it.
 7. `execution` runs the cells within limits. A test, or each part of one, earns its points by not
    failing; `reasons` says in words why points are missing, `flags` and `canary` what the teacher
    should look at.
 8. `grading` does 4 to 7 for one submission, `grade` for a class, a few at a time.
 9. `report` writes everything from the grades that are kept: `rules` are late days and overrides,
    `questions` the teacher's marks for open questions,
    `roster` knows who is who, `exports` fills the course system's file, `pages` and `class_page`
    draw what students and the teacher read.
"""
