"""Tests that run in a child process are selected, reported and repeated as any others are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.apart import child
from tests.apart.child import ROOT, Child, ChildFailed, Found

SAMPLES = "tests/apart/samples/outcomes.py"


def run(*arguments: str) -> tuple[int, str]:
    """pytest on the samples; its status, and what it says."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.apart.samples.plugin"]
    command += ["-o", "python_files=outcomes.py", *arguments]
    if "--lf" not in arguments:
        command += ["-p", "no:cacheprovider"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTEST_ADDOPTS": ""},
        text=True,
        capture_output=True,
        timeout=100,
    )
    print(done.stdout, done.stderr)
    return done.returncode, done.stdout


def outcomes(said: str) -> dict[str, str]:
    """By test; from the summary that -rA makes."""
    found = re.findall(r"^(PASSED|FAILED|ERROR) \S+::(\w+\S*)", said, re.MULTILINE)
    return {test: outcome for outcome, test in found}


def test_a_failure_shows_its_own_assertion_and_what_its_test_has_printed() -> None:
    status, said = run("-rA", "-k", "two and (passes or fails) and not new_process", SAMPLES)
    assert status == 1
    assert outcomes(said) == {
        "test_passes[two]": "PASSED",
        "test_fails[two]": "FAILED",
        "test_fails_twice[two]": "FAILED",
    }
    assert re.search(r"^E +AssertionError: assert 'two' == 'as expected'$", said, re.MULTILINE)
    assert re.search(r"^tests/apart/samples/outcomes.py:\d+: AssertionError$", said, re.MULTILINE)
    assert "printed by the one that fails" in said
    assert re.search(r"^E +KeyError: 'the test'$", said, re.MULTILINE)
    assert "teardown, which fails, too" in said
    assert "ValueError: the end of the fixture" in said
    assert "subprocess" not in said
    assert "child.py" not in said


@pytest.mark.parametrize("workers", [(), ("-n", "2", "--dist", "worksteal")], ids=["alone", "workers"])
def test_each_is_selected_by_its_id_also_with_workers(workers: tuple[str, ...]) -> None:
    ids = [f"{SAMPLES}::{name}" for name in ("test_has_parameters[2][one]", "test_has_parameters[2][two]")]
    status, said = run("-rA", *workers, *ids, f"{SAMPLES}::test_is_skipped")
    assert status == 1
    assert outcomes(said) == {
        "test_has_parameters[2][one]": "PASSED",
        "test_has_parameters[2][two]": "FAILED",
    }
    assert re.search(r"^SKIPPED \[2\] tests/apart/samples/outcomes.py:\d+: a reason$", said, re.MULTILINE)


def test_a_crash_fails_one_test_and_the_others_go_on_in_a_new_child() -> None:
    status, said = run("-rA", "-k", "one and (ends_its or crashes or fork or passes)", SAMPLES)
    assert status == 1
    assert outcomes(said) == {
        "test_passes[one]": "PASSED",
        "test_ends_its_process[one]": "FAILED",
        "test_crashes[one]": "FAILED",
        "test_leaves_a_fork[one]": "PASSED",
        "test_passes_in_a_new_process[one]": "PASSED",
    }
    assert "the child has ended: 3" in said
    assert "printed before the end" in said
    assert "printed before the crash" in said
    assert "Fatal Python error: Segmentation fault" in said
    assert re.search(r'File ".*outcomes.py", line \d+ in test_crashes', said)


def test_the_first_failure_is_the_last_test_where_that_is_wanted() -> None:
    status, said = run("-rA", "-x", "-k", "fails or has_parameters", SAMPLES)
    assert status == 1
    assert outcomes(said) == {"test_fails[one]": "FAILED"}


def test_those_that_have_failed_are_repeated(tmp_path: Path) -> None:
    """--lf runs all where none is known to have failed."""
    arguments = ["-rA", "--lf", "-o", f"cache_dir={tmp_path}", "-k", "has_parameters", SAMPLES]
    first = outcomes(run(*arguments)[1])
    assert (len(first), [test for test in first if first[test] == "FAILED"]) == (
        4,
        ["test_has_parameters[2][two]"],
    )
    assert list((tmp_path / "d" / "apart").iterdir())
    assert outcomes(run(*arguments)[1]) == {"test_has_parameters[2][two]": "FAILED"}


def samples() -> Child:
    return Child("apart/samples", {"SAMPLE": "one"})


def named(child: Child, name: str) -> Found:
    found, errors = child.find()
    assert errors == []
    return next(test for test in found if test.id.endswith(f"::{name}"))


def test_a_test_that_is_too_slow_says_where_it_was() -> None:
    child = samples()
    reports = child.run(named(child, "test_is_too_slow"), "")
    assert [(report["when"], report["outcome"]) for report in reports] == [
        ("setup", "passed"),
        ("call", "failed"),
        ("teardown", "passed"),
    ]
    assert "Timeout (>5.0s)" in str(reports[1]["longrepr"])
    child.end()


def test_a_child_that_hangs_is_ended_and_says_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "GRACE_SECONDS", 1.0)
    hanging = samples()
    with pytest.raises(ChildFailed, match="the child hangs") as told:
        hanging.run(named(hanging, "test_hangs"), "")
    assert "printed before it hangs" in str(told.value)
    assert "in test_hangs" in str(told.value)


def test_what_cannot_be_collected_is_an_error(tmp_path: Path) -> None:
    broken = Child("apart/samples", {"SAMPLE": "one"}, [f"--confcutdir={tmp_path}", str(tmp_path)])
    (tmp_path / "outcomes.py").write_text("import nothing_of_that_name")
    _, errors = broken.find()
    assert "nothing_of_that_name" in errors[0]
    broken.end()
