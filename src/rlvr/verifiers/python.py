"""Verify a Python program: it runs in a sandbox, and its output and results are compared outside."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rlvr.verifiers.fences import program_in
from rlvr.verifiers.program_tests import Call, Script, decode, read_tests
from rlvr.verifiers.sandbox.run import Ending, Kind, ProgramLimits, ProgramRun, SandboxError, execute
from rlvr.verifiers.verdict import CRASH, GOLD, MEMORY, RIGHT, WORKER, Verdict, fault

MIB, KIB = 2**20, 2**10


def verify(
    answer: str,
    gold: str,
    *,
    kind: Kind,
    wall_seconds: float,
    cpu_seconds: float,
    memory_mib: int,
    file_mib: int,
    processes: int,
    output_kib: int,
) -> Verdict:
    """Right if the program in `answer` passes all tests of `gold`, which is JSON in one of program_tests.FORMS.

    A script runs once per test and has to end with status 0. Calls and asserts run together in one more run, where the
    program is a module (so `if __name__ == "__main__"` is false). `details` are compiles and runs (0 or 1; it runs if
    no test ended in an exception, a crash or a limit), tests_passed and tests_total.

    No expected output, result or literal enters the sandbox. So a program passes a script, a call,
    `assert E op LITERAL`, a chain of comparisons, `assert abs(E - LITERAL) < LITERAL` or math.isclose only with the
    right output or value, whatever it does to its process. It can still redefine names that E uses, such as `len`. Any
    other assert, such as `assert f(1) == g(1)`, is decided in the program's own process, which can make it true: prefer
    the other forms.
    """
    try:
        tests = read_tests(gold)
    except ValueError:
        return check_gold(gold)
    scripts = [test for test in tests if isinstance(test, Script)]
    calls = [test for test in tests if isinstance(test, Call)]
    runs = [ProgramRun(test.stdin) for test in scripts]
    if calls:
        runs.append(ProgramRun(calls=tuple(call.request for call in calls)))
    limits = ProgramLimits(wall_seconds, cpu_seconds, memory_mib * MIB, file_mib * MIB, processes, output_kib * KIB)
    program = program_in(answer, {name for call in calls for name in call.names})
    try:
        report = execute(program, runs, limits=limits, kind=kind)
    except SandboxError as error:
        return fault(WORKER, f"the sandbox did not start: {error}")
    results = [_script_result(test, ending) for test, ending in zip(scripts, report.endings, strict=False)]
    if calls:
        results += _call_results(calls, report.endings[-1])
    return _verdict(results, tests_total=len(tests), compiles=int(report.compiles))


def check_gold(gold: str, **_: object) -> Verdict:
    """A fault unless `gold` holds tests, whatever the limits."""
    try:
        read_tests(gold)
    except ValueError as error:
        return fault(GOLD, str(error))
    return RIGHT


Result = tuple[bool, str | None, str]  # whether it passed, the cause if it did not finish, a message


def _script_result(test: Script, ending: Ending) -> Result:
    if ending.cause is not None:
        return False, ending.cause, ending.message
    printed = ending.printed.decode("utf-8", "replace")
    return test.passes(printed), None, f"printed {printed[:80]!r}, expected {test.stdout[:80]!r}"


def _call_results(calls: Sequence[Call], ending: Ending) -> list[Result]:
    lines = ending.replies.split(b"\n")[:-1][: len(calls)]
    results = [_call_result(call, line) for call, line in zip(calls, lines, strict=False)]
    unreached = (False, ending.cause or CRASH, ending.message or "the program ended before this test")
    return results + [unreached] * (len(calls) - len(results))


def _call_result(call: Call, line: bytes) -> Result:
    try:
        word, encoded = json.loads(line)
        value = decode(encoded)
    except (ValueError, TypeError, RecursionError):
        return False, CRASH, "the program wrote over the reply"
    if word == "raised":
        return False, MEMORY if str(value).startswith("MemoryError") else CRASH, str(value)[:200]
    if word != "value":
        return False, None, str(value)[:200]
    try:
        return call.passes(value), None, f"found {ascii(encoded)[:80]}"
    except (TypeError, ValueError, ArithmeticError) as error:  # round(nan) is a ValueError
        return False, None, f"cannot be compared: {error}"


def _verdict(results: Sequence[Result], *, tests_total: int, compiles: int) -> Verdict:
    passed = sum(is_passed for is_passed, _, _ in results)
    causes = [(cause, message) for _, cause, message in results if cause is not None]
    details = _details(compiles, int(not causes), passed, tests_total)
    if passed == tests_total:
        return Verdict("right", details=details)
    cause, message = causes[0] if causes else next((None, text) for is_passed, _, text in results if not is_passed)
    return Verdict("wrong", cause, message, details)


def _details(compiles: int, runs: int, tests_passed: int, tests_total: int) -> dict[str, float]:
    return {"compiles": compiles, "runs": runs, "tests_passed": tests_passed, "tests_total": tests_total}
