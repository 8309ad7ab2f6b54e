"""Test Anything Protocol for the system tests: one line a case, what went wrong as comments."""
import contextlib
import sys
import traceback

TAIL_LINES = 30


class Skip(Exception):
    """Raised in a case that cannot run here; its text is the reason."""


class Report:
    def __init__(self):
        self.number = 0
        self.failures = 0

    def note(self, text):
        for line in str(text).splitlines():
            print(f"# {line}", flush=True)

    @contextlib.contextmanager
    def case(self, name):
        self.number += 1
        try:
            yield
            print(f"ok {self.number} - {name}", flush=True)
        except Skip as reason:
            print(f"ok {self.number} - {name} # SKIP {reason}", flush=True)
        except Exception as problem:  # any problem of a case is its failure, and only its
            self.failures += 1
            self.note("\n".join(str(problem).splitlines()[-TAIL_LINES:]) or repr(problem))
            if not isinstance(problem, AssertionError):
                self.note(traceback.format_exc())
            print(f"not ok {self.number} - {name}", flush=True)

    def end(self):
        print(f"1..{self.number}", flush=True)
        sys.exit(1 if self.failures else 0)


def equal(got, expected, what="result"):
    assert got == expected, f"{what}: {got!r} instead of {expected!r}"


def within(got, low, high, what="value"):
    assert low <= got <= high, f"{what}: {got} is not from {low} to {high}"
