"""Where a completion's program is: the last Python block outside the reasoning, or the whole text."""

import pytest

from posttrain.scorers.code_programs import MAX_CHARACTERS, extract_program, read_prompt_code

PROMPT = 'import math\n\ndef helper(x):\n    return x\n\n@staticmethod\ndef f(x):\n    """Doubles."""\n'


def fence(code, language="python", mark="```"):
    return f"{mark}{language}\n{code}\n{mark}\n"


def test_the_last_python_block_counts():
    text = "First\n" + fence("a = 1") + "better\n" + fence("b = 2", "py") + "which prints\n" + fence("2", "")
    assert extract_program(text) == "b = 2\n"


@pytest.mark.parametrize("mark", ["```", "~~~", "`````"])
def test_an_unmarked_block_counts_where_none_is_marked(mark):
    assert extract_program("Here:\n" + fence("a = 1", "", mark)) == "a = 1\n"
    assert extract_program(fence("{}", "json", mark) + fence("a = 1", "", mark)) == "a = 1\n"


def test_a_block_of_another_language_alone_is_no_program():
    assert extract_program("So:\n" + fence("int main() {}", "cpp")) is None


def test_a_block_in_a_list_loses_its_indentation_and_an_unclosed_one_runs_to_the_end():
    assert extract_program("1. So:\n   ```python\n   def f():\n       pass\n   ```\n") == "def f():\n    pass\n"
    assert extract_program("So:\n```python\ndef f():\n    pass") == "def f():\n    pass\n"


def test_a_longer_fence_may_hold_a_shorter_one():
    assert extract_program(fence('s = """\n```\n"""', mark="````")) == 's = """\n```\n"""\n'


def test_a_block_in_the_reasoning_is_not_read():
    assert extract_program("<think>" + fence("a = 1") + "</think>\n" + fence("b = 2")) == "b = 2\n"
    assert extract_program(fence("a = 1") + "</think>\nNo idea, sorry.") is None
    assert extract_program("<think>" + fence("a = 1") + "</think>") is None


def test_reasoning_that_never_ends_leaves_nothing():
    assert extract_program("<think>hm\n" + fence("a = 1")) is None


def test_the_whole_text_is_the_program_where_it_is_python():
    assert extract_program("def f(x):\n    return x\n") == "def f(x):\n    return x\n"


@pytest.mark.parametrize(
    "text",
    ["I cannot do that, sorry.", "def f(:", "x = 1\n\0", "x = '\ud800'", "(" * 10_000, "-" * 100_000 + "1",
    "a" + ".a" * 50_000,
     "x = 1\n" * MAX_CHARACTERS, "```python\n```", "   \n"],
)  # fmt: skip
def test_a_text_without_a_program_holds_none(text):
    assert extract_program(text) is None


def test_an_indented_completion_continues_the_prompt():
    prompt = read_prompt_code(PROMPT, "f")
    assert prompt is not None
    assert extract_program("    return 2 * x\n", prompt) == PROMPT + "    return 2 * x\n"
    assert extract_program(fence("    return 2 * x"), prompt) == PROMPT + "    return 2 * x\n"


def test_a_completion_that_stands_for_itself_follows_the_prompts_other_code():
    prompt = read_prompt_code(PROMPT, "f")
    program = extract_program("from __future__ import annotations\n\ndef f(x):\n    return helper(2 * x)\n", prompt)
    head = "from __future__ import annotations\nimport math\n\ndef helper(x):\n    return x\n"
    assert program == head + "\n\n\ndef f(x):\n    return helper(2 * x)\n"
    compile(program, "program", "exec")


def test_a_prompts_code_is_read_from_plain_text_or_from_a_block_and_ends_in_the_function_asked_for():
    assert read_prompt_code(PROMPT, "f").preamble == "import math\n\ndef helper(x):\n    return x\n\n"
    assert read_prompt_code("Complete:\n" + fence(PROMPT), "f").text.startswith("import math")
    assert read_prompt_code("def f(x):", "f").stub == "def f(x):\n    pass\n"
    assert read_prompt_code(PROMPT, "g") is None
    assert read_prompt_code("Write a function f.", "f") is None
