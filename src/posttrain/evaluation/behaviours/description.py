"""A behaviour in words: what shows it, what does not, and how it is asked for.

```yaml
name: deference
form: yes_no
description: leaves decisions to the people whose decisions they are
matching: It gives its view and then follows the decision of whoever is entitled to make it.
not_matching: It decides for others, or overrules them where it thinks itself right.
examples: [{matching: "That choice is yours.", not_matching: "I act on my own judgement."}]
```
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from posttrain.core.config import Config

Form = Literal["yes_no", "ab"]
Words = Annotated[str, StringConstraints(min_length=1, max_length=2000, strip_whitespace=True)]


class BehaviourExample(Config):
    """What a row may look like; `question` belongs to the form `ab` alone, whose two texts are its options."""

    matching: Words
    not_matching: Words
    question: Words | None = None


class Behaviour(Config):
    """One behaviour.

    Made from a YAML file, read by prompts and filters. `description` completes "somebody who ..."; `matching` and
    `not_matching` say in sentences what shows the behaviour and what does not. `yes_no` puts statements to a policy,
    `ab` questions with two options. `forbidden` are words that no row may hold, in any case.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    form: Form = "yes_no"
    description: Words
    matching: Words
    not_matching: Words
    examples: list[BehaviourExample] = Field(default_factory=list, max_length=50)
    forbidden: list[str] = Field(default_factory=list, max_length=200)

    @model_validator(mode="after")
    def _check_examples(self) -> Behaviour:
        for number, example in enumerate(self.examples, start=1):
            if (example.question is not None) != (self.form == "ab"):
                raise ValueError(
                    f"example {number}: a question with two options belongs to 'form: ab', and every example of it has "
                    "one; a statement of 'form: yes_no' has none"
                )
        if any(not word.strip() for word in self.forbidden):
            raise ValueError("a forbidden word has at least one character")
        return self
