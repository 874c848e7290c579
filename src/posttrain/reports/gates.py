"""Gates as a report shows them: what each let through, and every rule that decided, with its interval.

Read from `stages[].gate` of run.json. What was not measured is a state and is shown without any number, whatever
stands beside it in the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.core.metrics import describe_metric
from posttrain.reports.field_reader import FieldReader, describe
from posttrain.reports.numbers import format_figure
from posttrain.reports.raw_values import list_of, mapping_of, number_of, text_of
from posttrain.reports.rule_results import RuleScales, RuleView, build_rules, choose_rule_scales
from posttrain.reports.run_files import RunFiles, StageFiles
from posttrain.reports.visible_text import cut_text

MAX_BRIEF_CHARACTERS = 240
_DECIDED = {"promote": ("promoted", "good"), "hold": ("hold", "warn"), "roll_back": ("rolled back", "bad")}
_ACTIONS = {**_DECIDED, "repair": ("repair", "warn")}
_STATES = ("passed", "failed", "inconclusive", "unmeasured")
_DONE = ("finished", "cached")


@dataclass(frozen=True, slots=True)
class CandidateView:
    """One setting of a repair that was tried on development rows.

    `lowest` is the clearance of its worst rule, as text; `tally` counts its rules by state.
    """

    settings: str
    policy: str
    lowest: str
    tally: str
    is_chosen: bool
    rules: list[RuleView]


@dataclass(frozen=True, slots=True)
class SearchView:
    """How a repair's setting was chosen, and on which split."""

    split: str
    candidates: list[CandidateView]


@dataclass(frozen=True, slots=True)
class DecisionView:
    """One look: what was to be done, the levels that it had, and its rules."""

    action: str
    kind: str
    reason: str
    facts: list[tuple[str, str]]
    rules: list[RuleView]


@dataclass(frozen=True, slots=True)
class AttemptView:
    """The stage's own policy (`repair` is empty) or a repair of it: its search, and one decision a look."""

    heading: str
    repair: str
    policy: str
    is_passed_on: bool
    search: SearchView | None
    decisions: list[DecisionView]


@dataclass(frozen=True, slots=True)
class GateView:
    """A stage's gate; one without a gate has `attempts=[]` and a badge that says so.

    `badges` are (words, kind); `promoted` is the hash of the policy that was passed on and `origin` says whose it is;
    `looks` tells how often the held_out rows have been decided on.
    """

    badges: list[tuple[str, str]]
    reason: str
    promoted: str
    origin: str
    looks: str
    is_reused: bool
    attempts: list[AttemptView]

    @property
    def brief(self) -> str:
        """The reason, cut to what can be taken in at a glance."""
        text, num_left_out = cut_text(self.reason, MAX_BRIEF_CHARACTERS)
        return f"{text.rstrip()} …" if num_left_out else text


def build_gates(files: RunFiles, reader: FieldReader) -> list[GateView]:
    """Return the gate of every stage, in the order of the stages; what is strange in it goes to the reader's notes."""
    units = _find_units(files.run)
    return [_build_gate(stage, reader, units) for stage in files.stages]


def _build_gate(stage: StageFiles, reader: FieldReader, units: Mapping[str, str]) -> GateView:
    gate, place = stage.entry.get("gate"), f"stage {stage.index + 1} ({stage.name}): gate"
    if gate is None:
        is_done = text_of(stage.entry.get("status")) in _DONE
        return _say_none("no gate" if is_done else "no decision yet")
    if not isinstance(gate, dict) or not gate:
        reader.note(place, f"{describe(gate)} where a decision is expected; it is left out.")
        return _say_none("unreadable")
    decided = reader.read_word(gate, "decision", list(_DECIDED), place)
    promoted = reader.read_text(gate, "promoted", place, is_optional=True)
    attempts = _read_attempts(gate, promoted, reader, place, units)
    is_overridden = reader.read_flag(gate, "is_overridden", place)
    looks = reader.read_count(gate, "looks", place)
    earlier = reader.read_count(gate, "earlier_looks", place)
    return GateView(
        badges=_list_badges(decided, attempts, is_overridden=is_overridden),
        reason=reader.read_text(gate, "reason", place),
        promoted=promoted,
        origin=_name_origin(promoted, attempts, stage.entry),
        looks=_say_looks(looks, earlier),
        is_reused=bool(earlier),
        attempts=attempts,
    )


def _list_badges(decided: str, attempts: Sequence[AttemptView], *, is_overridden: bool) -> list[tuple[str, str]]:
    """Return the decision in words; of one that was overridden, what the gate had found."""
    words, kind = _DECIDED.get(decided, (decided or "unreadable", "plain"))
    if is_overridden:
        last = next((attempt.decisions[-1] for attempt in reversed(attempts) if attempt.decisions), None)
        return [("overridden", "override"), (f"gate: {last.action}", last.kind) if last else (words, kind)]
    repair = next((attempt.repair for attempt in attempts if attempt.is_passed_on), "")
    return [(f"{words} after repair {repair}" if decided == "promote" and repair else words, kind)]


def _say_none(words: str) -> GateView:
    return GateView([(words, "none")], "", "", "", "", False, [])


def _read_attempts(
    gate: Mapping[str, Any], promoted: str, reader: FieldReader, place: str, units: Mapping[str, str]
) -> list[AttemptView]:
    records = reader.read_records(gate, "attempts", place)
    lists = [result for _, record in records for result in _list_results(record)]
    scales = choose_rule_scales(lists, units)
    # A search that came to nothing leaves its attempt with the policy before, and without a decision.
    named = [
        index
        for index, (_, record) in enumerate(records)
        if record.get("policy") == promoted != "" and record.get("decisions")
    ]
    attempts = []
    for index, (where, record) in enumerate(records):
        repair = reader.read_text(record, "repair", where, is_optional=True)
        decisions = [
            _build_decision(decision, reader, spot, scales)
            for spot, decision in reader.read_records(record, "decisions", where)
        ]
        attempts.append(
            AttemptView(
                heading=f"Repair {index}: {repair or 'without a name'}" if index else "The stage's own policy",
                repair=repair,
                policy=reader.read_text(record, "policy", where),
                is_passed_on=index == max(named, default=None),
                search=_build_search(record, reader, where, scales),
                decisions=decisions,
            )
        )
    return attempts


def _list_results(attempt: Mapping[str, Any]) -> list[Any]:
    """Return the results of all rules of an attempt: those of its looks, and those of its candidates."""
    searched = list_of(mapping_of(attempt.get("search")).get("candidates"))
    holders = [*list_of(attempt.get("decisions")), *searched]
    return [result for holder in holders for result in list_of(mapping_of(holder).get("results"))]


def _build_search(record: Mapping[str, Any], reader: FieldReader, place: str, scales: RuleScales) -> SearchView | None:
    search, place = record.get("search"), f"{place}: search"
    if search is None:
        return None
    if not isinstance(search, dict):
        reader.note(place, f"{describe(search)} where a search is expected; it is left out.")
        return None
    candidates = []
    for where, candidate in reader.read_records(search, "candidates", place):
        settings = mapping_of(candidate.get("settings"))
        if not settings:
            reader.note(where, f"settings is {describe(candidate.get('settings'))}, not settings by name.")
        rules = build_rules(candidate, reader, where, scales)
        lowest = reader.read_number(candidate, "lowest", where)
        candidates.append(
            CandidateView(
                settings=", ".join(f"{name} {_write_setting(value)}" for name, value in settings.items()) or "unknown",
                policy=reader.read_text(candidate, "policy", where),
                lowest="none" if lowest is None else f"{lowest:+.2f}".replace("-", "−"),
                tally=_count_states(rules),
                is_chosen=reader.read_flag(candidate, "is_chosen", where),
                rules=rules,
            )
        )
    return SearchView(reader.read_word(search, "split", ["development"], place), candidates)


def _write_setting(value: Any) -> str:
    number = number_of(value)
    return text_of(value) if number is None else f"{number:g}"


def _count_states(rules: Sequence[RuleView]) -> str:
    counts = {state: sum(rule.state == state for rule in rules) for state in [*_STATES, "unknown"]}
    return " · ".join(f"{count} {state}" for state, count in counts.items() if count) or "no rule"


def _build_decision(decision: Mapping[str, Any], reader: FieldReader, place: str, scales: RuleScales) -> DecisionView:
    action = reader.read_word(decision, "action", list(_ACTIONS), place)
    words, kind = _ACTIONS.get(action, (action or "unreadable", "plain"))
    repair = reader.read_text(decision, "repair", place, is_optional=True)
    look, planned = (reader.read_count(decision, key, place) for key in ("look", "planned_looks"))
    facts = [("look", f"{look} of {planned}" if look and planned else "not recorded")]
    for key, label in (("level", "level of this attempt"), ("nominal_level", "of this look")):
        level = reader.read_number(decision, key, place)
        facts.append((label, "not recorded" if level is None else f"{level:.3g}"))
    joint = decision.get("joint_power")
    if isinstance(joint, dict):
        product, least = (reader.read_number(joint, key, f"{place}: joint_power") for key in ("product", "bonferroni"))
        if product is not None and least is not None:
            chance, lowest = format_figure(product, "fraction"), format_figure(least, "fraction")
            facts.append(("chance that all keeps pass where nothing has changed", f"{chance}, at least {lowest}"))
    elif joint is not None:
        reader.note(place, f"joint_power is {describe(joint)}, not a record.")
    if reader.read_flag(decision, "should_draw_more", place):
        facts.append(("then", "more items may settle it"))
    return DecisionView(
        action=f"{words} by {repair}" if repair else words,
        kind=kind,
        reason=reader.read_text(decision, "reason", place),
        facts=facts,
        rules=build_rules(decision, reader, place, scales),
    )


def _name_origin(promoted: str, attempts: Sequence[AttemptView], entry: Mapping[str, Any]) -> str:
    """Return whose policy was passed on."""
    if not promoted:
        return "nothing was passed on"
    own = next((attempt for attempt in attempts if attempt.is_passed_on), None)
    if own is not None:
        return f"repaired by {own.repair}" if own.repair else "the stage's own policy"
    if promoted == mapping_of(entry.get("inputs")).get("policy"):
        return "the parent's policy, unchanged"
    return "a policy that no attempt names"


def _say_looks(looks: int | None, earlier: int | None) -> str:
    if looks is None:
        return "How often its held_out rows have been decided on is not recorded."
    text = f"Its held_out rows have been decided on {_times(looks)} by this gate in this configuration"
    if not earlier:
        return f"{text}{'' if earlier is None else ', and never by another'}."
    return f"{text}, and {_times(earlier)} by other configurations before, which its level does not count."


def _times(count: int) -> str:
    return "once" if count == 1 else "twice" if count == 2 else f"{count} times"


def _find_units(run: Mapping[str, Any]) -> dict[str, str]:
    """Return the unit of each task's score, where `core.metrics` declares one."""
    units: dict[str, str] = {}
    for metric in map(mapping_of, list_of(run.get("metrics"))):
        spec = describe_metric(text_of(metric.get("name")))
        units.setdefault(text_of(metric.get("task")), spec.unit if spec else "")
    return units
