"""Each of IFBench's kinds of instructions that are checked: replies that follow it, others, hostile texts."""

import json
import random

import pytest

from posttrain.core.errors import DataError
from posttrain.scorers.arguments import Arguments
from posttrain.scorers.bench_tasks import CAPITALS, ONLY
from posttrain.scorers.bench_words import NAMES
from posttrain.scorers.instruction_bench import BENCH_CONSTRAINTS, UNCHECKED
from posttrain.scorers.instructions import InstructionFollowing
from tests.scorers.form_items import build_item, score_one

PRODUCTS = "ProductID,Category,Brand,Price,Stock"
REQUEST = "Write a short poem about the sea and the wind."
QUESTIONS = "\n".join(
    f"Question {n}: {'which painter ' * n}is it?\n" + "\n".join(f"{letter}) one" for letter in "ABCDE")
    for n in range(1, 5)
)
COUNTRIES = "\n".join(["Zimbabwe", *(f"Land {n:02d}" for n in range(60, 8, -1))])
STORY = " ".join(f"{chr(65 + n)}nd so it went on." for n in range(26))

# id, arguments, replies that follow, replies that do not
CASES = [
    ("count:conjunctions", {"small_n": 2.0}, ["Red and blue, but not green.", "This or that; yet"],
     ["And and and", "forty norse"]),
    ("count:keywords_multiple", {f"keyword{n}": word for n, word in enumerate(["ox", "hen", "cat", "dog", "bee"], 1)},
     ["ox hen Hen" + " cat" * 3 + " dog" * 5 + " BEE." * 7],
     ["ox hen hen" + " cat" * 3 + " dog" * 5 + " bee" * 8, "ox hen hen" + " cats" * 3 + " dog" * 5 + " bee" * 7]),
    ("count:numbers", {"N": 3}, ["1,000 of 2.5 and 7", "a1b2c3"], ["1 2", "1 2 3 4", "one two three"]),
    ("count:person_names", {"N": 2}, ["Emma met Liam.", "Zoe's and Leo's"], ["Emma, Emma", "Emmas Liams", "emma liam"]),
    ("count:pronouns", {"N": 3}, ["I told him what", "she/her/hers", "It's mine, isn't it"], ["The item is there"]),
    ("count:punctuation", {}, ["A, b; c: d! e? f. What?!", "Really!? a.b,c!d?e;f:"],
     ["A, b; c: d. What?!", "A, b; c: d! e? f."]),
    ("count:unique_word_count", {"N": 3}, ["one two three", "One, two: THREE"], ["one One two", "one two - --"]),
    ("count:word_count_range", {"min_words": 2.0, "max_words": 3.0}, ["one two", "don't go"], ["one", "a b c d"]),
    ("count:words_japanese", {"N": 2}, ["the ねこ sat 水", "a 猫, b 12"], ["the cat", "one", "a 12 b 13", "ねこ the"]),
    ("custom:character_reverse", {}, [".elgae dlab eht s'tI"], ["the bald eagle"]),
    ("custom:csv_city", {}, ["ID,Country,City,Year,Count" + "\n1,Chad,\"N, a\",2001,3" * 7],
     ["ID,Country,City,Year,Count" + "\n1,Chad,N,2001,3" * 6, "ID,Country,City,Year" + "\n1,Chad,N,2001" * 7,
      'ID,Country,City,Year,Count\n"1' + "\n1,Chad,N,2001,3" * 6]),
    ("custom:csv_quotes", {}, ["\t".join(f'"{x}"' for x in ("StudentID", "Subject", "Grade", "Semester", "Score"))
                               + '\n"1"\t"a"\t"b"\t"c"\t"d"' * 3],
     ["StudentID\tSubject\tGrade\tSemester\tScore" + '\n"1"\t"a"\t"b"\t"c"\t"d"' * 3, '"a"']),
    ("custom:csv_special_character", {}, [PRODUCTS + '\n1,a,"b&c",2,3' + "\n1,a,b,2,3" * 13],
     [PRODUCTS + "\n1,a,b,2,3" * 14, PRODUCTS + '\n1,a,"bc",2,3' * 14]),
    ("custom:date_format_list", {}, ["1796-04-12, 1805-12-02"], ["1796-4-12", "1805-13-02", "1999-01-01", "1805-02-30",
                                                                 "They are 1796-04-12"]),
    ("custom:european_capitals_sort", {}, [", ".join(CAPITALS), ",".join(CAPITALS).replace("Reykjavik", "Reykjavík")],
     [", ".join(CAPITALS[:-1]), ", ".join(reversed(CAPITALS))]),
    ("custom:mcq_count_length", {}, [QUESTIONS, QUESTIONS.replace(":", "")],
     ["Here they are.\n" + QUESTIONS, QUESTIONS.replace("E) one", ""), QUESTIONS.replace("which painter ", "")]),
    ("custom:multiples", {}, ["14, 21, 28, 35, 42, 49", "14\n21\n28\n35\n42\n49"],
     ["14, 21", "7, 14, 21, 28, 35, 42, 49"]),
    ("custom:reverse_newline", {}, [COUNTRIES, "Here:\n" + COUNTRIES],
     ["\n".join(COUNTRIES.split("\n")[:40]), "\n".join(reversed(COUNTRIES.split("\n")))]),
    ("custom:sentence_alphabet", {}, [STORY], [STORY.replace("Bnd", "Cnd"), STORY[:-19]]),
    ("custom:word_reverse", {}, ["Eagle bald the is it."], ["It is the bald eagle.", "eagle bald"]),
    ("format:emoji", {}, ["One \U0001f600. Two! \U0001f680 Three? \u2764\ufe0f", "Hi \U0001f44d\U0001f3fd",
                          "One \U0001f600 two \U0001f469\u200d\U0001f680"],
     ["One \U0001f600. Two. Three \U0001f600.", "One :-)", "\U0001f600 One."]),
    ("format:line_indent", {}, ["a\n b\n\n  c"], ["a\nb", "a", " a\n b", "a\n\tb"]),
    ("format:list", {"sep": "!?!?"}, ["!?!? a\n!?!? b"], ["!?!? a", "- a\n- b"]),
    ("format:newline", {}, ["one\ntwo\n\nthree!", "one"], ["one two", "one\ntwo three"]),
    ("format:no_bullets_bullets", {}, ["One here. Two here.\n* a\n\n* b", "One.\nTwo.\n*a\n*b"],
     ["One here.\n* a\n* b", "One. Two.\n* a", "One. Two.\n* a\n* b\nThree.", "One! Two!\n* a\n* b", "* a\n* b"]),
    ("format:no_whitespace", {}, ["one_two"], ["one two", "one\ntwo"]),
    ("format:options", {"options": "yes/no/maybe"}, ["Yes.", " no\n", "**maybe**"],
     ["yes or no", "perhaps", "yes, it is"]),
    ("format:options", {"options": "I know or I don't know"}, ["I know", "I don't know."], ["I know or I don't know"]),
    ("format:options", {"options": "a), b), c), d)"}, ["a)", "d) "], ["a", "A)", "e)"]),
    ("format:output_template", {}, ["My Answer: a\nMy Conclusion: b\nFuture Outlook: c"],
     ["My Conclusion: b My Answer: a Future Outlook: c", "My Answer: a My Conclusion: b"]),
    ("format:parentheses", {}, ["a (b [c {d (e [f])}])", "((((()"], ["(a (b (c (d))))", "(((((", "([{(})]"]),
    ("format:quote_unquote", {}, ['He said "yes" and meant it.', "“a” is b"],
     ['He said "yes"', '"a" "b" c', "a", 'so "a".']),
    ("format:quotes", {}, ["\"a 'b \"c\" d' e\"", "'a \"b 'c' d\" e'"], ["\"a 'b' c\"", "a"]),
    ("format:sub-bullets", {}, ["* a\n  - b\n* c\n  - d\n  - e"], ["* a\n* b\n - c", "a - b", "- a", "** a\n- b"]),
    ("format:thesis", {}, ["<i>It is so.</i> Because.", "a\n<em>b</em>\nc"],
     ["<i>a</i>", "<i> </i> b", "*a* b", "<i>a</em> b"]),
    ("format:title_case", {}, ["The Sea And The Wind", "My iPhone, Don't Break"], ["The sea", "a Sea", "tHE"]),
    ("ratio:overlap", {"percentage": 50, "reference_text": "a b c d e"}, ["a b c x", "b c d e q r"],
     ["a b c", "x y z", "a b", "b c d e"]),
    ("ratio:sentence_balance", {}, ["One. Two? Three!"], ["One. Two? Three! Four.", "one", "One."]),
    ("ratio:sentence_type", {}, ["One. Two. Three?", 'He said "One." Two. Three?'], ["One. Two?", "one", "One."]),
    ("ratio:sentence_words", {}, ["Ab cd. Ef gh. Ij kl."],
     ["Ab cd. Ef gh.", "Ab cd. Ef gh. Ij k.", "Ab cd. Ab ef. Gh ij."]),
    ("ratio:stop_words", {"percentage": 50}, ["the cat", "sea wind"], ["the cat is", "don't"]),
    ("repeat:repeat_change", {"prompt_to_repeat": REQUEST}, [REQUEST.replace("Write", "Draft")],
     [REQUEST, REQUEST + " No", REQUEST.replace("Write a", "Draft one"), "Write"]),
    ("repeat:repeat_simple", {}, [ONLY, ONLY.upper() + "\n"], ["Sure. " + ONLY]),
    ("repeat:repeat_span", {"prompt_to_repeat": REQUEST, "n_start": 1, "n_end": 3.0},
     ["a short poem", " A short poem\n"],
     ["a short", "write a short poem"]),
    ("sentence:alliteration_increment", {}, ["Blue sea. Big blue boats go. Six slow soft seals sing."],
     ["One here.", "Big blue boats. Two seas."]),
    ("sentence:increment", {"small_n": 2.0}, ["One. Two is here. Three is now over there."],
     ["One. Two here.", "One."]),
    ("sentence:keyword", {"N": 2, "word": "sea"}, ["One. The Sea, it is."], ["The sea. Two.", "One. Seas."]),
    ("words:alphabet", {}, ["Yes, zoo and boats"], ["a c", "a b d", "1 2", "ä b"]),
    ("words:consonants", {}, ["string trips"], ["a string", "string - trips"]),
    ("words:keywords_specific_position", {"keyword": "sea", "n": 2, "m": 3}, ["One. See the Sea, then."],
     ["One. See the big sea.", "See the sea."]),
    ("words:last_first", {}, ["He saw the sea. Sea is blue. Blue it was."], ["He saw. The sea.", "One."]),
    ("words:no_consecutive", {}, ["big cats sit"], ["big blue", "Sea. some"]),
    ("words:palindrome", {}, ["level, radar civic Kayak refer rotor madam tenet stats solos"],
     ["level " * 9, "noon " * 10]),
    ("words:paragraph_last_first", {}, ["Sea is the sea.\n\nWind, oh wind,"], ["Sea is wind.", "Sea sea\nwind is"]),
    ("words:prime_lengths", {}, ["to the sea", "it's now"], ["a sea", "four"]),
    ("words:repeats", {"small_n": 2.0}, ["a a b"], ["a A a."]),
    ("words:vowel", {}, ["sea and tree", "sky"], ["a sea of blue", "a\nb"]),
    ("words:words_position", {"keyword": "sea"}, ["The Sea is the sea, yes.", "The sea is"],
     ["sea the sea the", "a sea"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "right", "wrong"), CASES, ids=[case[0] for case in CASES])
def test_an_instruction_is_followed_by_some_replies_and_not_by_others(name, arguments, right, wrong):
    check = BENCH_CONSTRAINTS[name](Arguments(arguments, owner=name, place="row-1"))
    assert {text: check(text) for text in right} == dict.fromkeys(right)
    assert [text for text in wrong if check(text) is None] == []


def test_every_kind_has_a_case_and_there_are_58():
    assert {case[0] for case in CASES} == set(BENCH_CONSTRAINTS)
    assert (len(BENCH_CONSTRAINTS), len(UNCHECKED), len({*BENCH_CONSTRAINTS} & {*UNCHECKED})) == (56, 2, 0)
    assert len(NAMES) == 50


@pytest.mark.parametrize(
    ("name", "arguments"),
    [(case[0], {key: None}) for case in CASES for key in case[1]]
    + [("repeat:repeat_span", {"prompt_to_repeat": "a b", "n_start": 5, "n_end": 7}),
       ("count:words_japanese", {"N": 0}), ("sentence:keyword", {"N": 0, "word": "x"})],
)  # fmt: skip
def test_arguments_that_cannot_be_used_are_an_error_of_the_data(name, arguments):
    with pytest.raises(DataError):
        BENCH_CONSTRAINTS[name](Arguments(arguments, owner=name, place="row-1"))


def test_no_reply_can_make_a_check_fail_or_take_more_than_linear_time():
    """Quadratic patterns would take minutes on the long ones, and the run would never come to its end."""
    generator = random.Random(5)
    pieces = [
        "a",
        "Z",
        "é",
        ".",
        "?!",
        "*",
        "-",
        '"',
        "'",
        "(",
        "]",
        "\n",
        " ",
        "\t",
        "7",
        "<i>",
        "\U0001f600",
        "Question 1",
    ]
    texts = ["".join(generator.choices(pieces, k=generator.randrange(1, 60))) for _ in range(150)]
    texts += [piece * 20_000 + "x" for piece in pieces]
    for name, arguments, *_ in CASES:
        check = BENCH_CONSTRAINTS[name](Arguments(arguments, owner=name, place="row-1"))
        assert all(isinstance(check(text), str | None) for text in texts)


def test_a_row_with_a_kind_that_is_not_checked_is_not_applicable_and_never_right():
    columns = {"instruction_id_list": ["punctuation:no_comma", "words:start_verb"], "kwargs": [{}, {}]}
    outcome = score_one(InstructionFollowing(), "Go home", columns)
    assert (outcome.status, outcome.value, outcome.is_counted) == ("not_applicable", 0.0, False)
    assert "verb" in outcome.why


def test_an_instruction_that_nobody_published_is_refused_by_its_name():
    columns = {"instruction_id_list": ["words:start_verbs"], "kwargs": [{}]}
    with pytest.raises(DataError, match="'words:start_verbs' is not known"):
        InstructionFollowing().score([build_item("Go", columns)])


def test_the_request_again_is_no_reply_unless_it_was_asked_for():
    messages = [{"role": "user", "content": "Use no commas"}]
    plain = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    assert score_one(InstructionFollowing(), "use no commas!", plain, messages=messages).status == "unparsed"
    asked = {"instruction_id_list": ["repeat:repeat_simple"], "kwargs": [{}]}
    only = [{"role": "user", "content": ONLY}]
    assert score_one(InstructionFollowing(), ONLY, asked, messages=only).value == 1.0


@pytest.mark.real_data
def test_of_300_rows_of_ifbench_285_can_be_judged(real_data):
    rows = [json.loads(line) for line in (real_data / "ifeval" / "ifbench_test.jsonl").open(encoding="utf-8")]
    outcomes = InstructionFollowing().score([build_item("A short reply.", row) for row in rows])
    assert sum(outcome.is_counted for outcome in outcomes) == 285
    ids = {name for row in rows for name in row["instruction_id_list"]}
    assert ids == {*BENCH_CONSTRAINTS} | {*UNCHECKED}
