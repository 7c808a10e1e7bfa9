def test_the_program_asks_and_answers(run_program):
    program = run_program("main.py", input="2\n3\n")

    assert program.returncode == 0, program.stderr
    assert program.stdout.split()[-1] == "6"


def test_what_is_no_number_is_refused(run_program):
    program = run_program("main.py", input="two\n")

    assert program.returncode == 2, program.stderr
    assert "number" in program.stderr


def test_greeting_is_printed(student_import):
    printed = student_import("io").StringIO()

    with student_import("contextlib").redirect_stdout(printed):
        student_import("main").greet("Ada")

    assert printed.getvalue() == "Hello, Ada!\n"


def test_a_name_is_asked_for(student_import, monkeypatch):
    monkeypatch.setattr(student_import("builtins"), "input", lambda prompt="": "Ada")

    assert student_import("main").ask_name() == "Ada"
