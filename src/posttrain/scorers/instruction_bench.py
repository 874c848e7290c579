"""IFBench: 58 kinds of verifiable instructions beside IFEval's 25, of which 56 are checked.

Source: Pyatkin et al. 2025, "Generalizing Verifiable Instruction Following", arXiv 2507.02833 (allenai/IFBench). The
two others ask for what no rule of this project can tell: a row with one of them is not judged at all, since a prompt is
followed only if each of its instructions is.

What differs from the authors' checkers: sentences and words are split by rules (`bench_text`); a rule on what is not
there is not followed (an order of one sentence, a balance of no sentences, bullet points of none); a template's labels
stand in its order.
"""

from __future__ import annotations

from collections.abc import Callable

from posttrain.scorers import bench_forms as forms
from posttrain.scorers import bench_tasks as tasks
from posttrain.scorers import bench_words as words
from posttrain.scorers.arguments import Arguments
from posttrain.scorers.instruction_texts import Check

BENCH_CONSTRAINTS: dict[str, Callable[[Arguments], Check]] = {
    "count:conjunctions": words.build_conjunctions,
    "count:keywords_multiple": words.build_keywords_multiple,
    "count:numbers": words.build_numbers,
    "count:person_names": words.build_person_names,
    "count:pronouns": words.build_pronouns,
    "count:punctuation": words.build_punctuation,
    "count:unique_word_count": words.build_unique_words,
    "count:word_count_range": words.build_word_range,
    "count:words_japanese": words.build_japanese,
    "custom:character_reverse": tasks.build_character_reverse,
    "custom:csv_city": tasks.build_city_table,
    "custom:csv_quotes": tasks.build_quoted_table,
    "custom:csv_special_character": tasks.build_special_table,
    "custom:date_format_list": tasks.build_dates,
    "custom:european_capitals_sort": tasks.build_capitals,
    "custom:mcq_count_length": tasks.build_questions,
    "custom:multiples": tasks.build_multiples,
    "custom:reverse_newline": tasks.build_countries,
    "custom:sentence_alphabet": tasks.build_alphabet_story,
    "custom:word_reverse": tasks.build_word_reverse,
    "format:emoji": forms.build_emoji,
    "format:line_indent": forms.build_line_indent,
    "format:list": forms.build_list,
    "format:newline": forms.build_newline,
    "format:no_bullets_bullets": forms.build_sentences_and_bullets,
    "format:no_whitespace": forms.build_no_whitespace,
    "format:options": forms.build_options,
    "format:output_template": forms.build_template,
    "format:parentheses": forms.build_parentheses,
    "format:quote_unquote": forms.build_quote_unquote,
    "format:quotes": forms.build_quotes,
    "format:sub-bullets": forms.build_sub_bullets,
    "format:thesis": forms.build_thesis,
    "format:title_case": forms.build_title_case,
    "ratio:overlap": words.build_overlap,
    "ratio:sentence_balance": words.build_sentence_balance,
    "ratio:sentence_type": words.build_sentence_type,
    "ratio:sentence_words": words.build_sentence_words,
    "ratio:stop_words": words.build_stop_words,
    "repeat:repeat_change": tasks.build_repeat_change,
    "repeat:repeat_simple": tasks.build_repeat_simple,
    "repeat:repeat_span": tasks.build_repeat_span,
    "sentence:alliteration_increment": words.build_alliteration_increment,
    "sentence:increment": words.build_increment,
    "sentence:keyword": words.build_sentence_keyword,
    "words:alphabet": words.build_alphabet,
    "words:consonants": words.build_consonants,
    "words:keywords_specific_position": words.build_specific_position,
    "words:last_first": words.build_last_first,
    "words:no_consecutive": words.build_no_consecutive,
    "words:palindrome": words.build_palindrome,
    "words:paragraph_last_first": words.build_paragraph_last_first,
    "words:prime_lengths": words.build_prime_lengths,
    "words:repeats": words.build_repeats,
    "words:vowel": words.build_vowel,
    "words:words_position": words.build_words_position,
}
"""Each id of the paper that is checked, and the builder of its check."""

UNCHECKED: dict[str, str] = {
    "words:odd_even_syllables": "the syllables of a word, which are in a dictionary and not in its letters",
    "words:start_verb": "whether a word is a verb, which depends on what it means",
}
"""The ids that are not checked, and what would have to be known."""
