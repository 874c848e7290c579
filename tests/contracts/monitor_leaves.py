"""For every key of a monitor: a value to change it to, and what its readings say of planted items then."""

from __future__ import annotations

from typing import Any

from posttrain.core.records import ItemResult
from posttrain.evaluation.monitors.settings import read_monitor
from posttrain.pipeline.preflight.override_names import list_override_names
from tests.contracts.recipe_baselines import ORDERED, SAMPLED, WATCHED
from tests.contracts.trials import Leaf, Trial
from tests.evaluation.monitors.planted import make_item, make_items


def watched_items(shift: int, policy: str) -> dict[str, list[ItemResult]]:
    """Items of every task that the monitors read, with every part that they look for; `shift` moves all of them."""
    turns = [float((index + shift) % 3 == 0) for index in range(90)]
    others = [1.0 - turn for turn in turns]
    parts = {
        **dict.fromkeys(("claimed", "refused", "format", "stopped"), turns),
        **dict.fromkeys(("conceded", "complied", "kept", "level"), others),
        "drawn_tokens": [10.0 + 3 * shift + index % 5 for index in range(90)],
    }
    items = {name: make_items(turns, parts, policy_hash=policy) for name in WATCHED}
    weighed = {"nats": [20.0 + shift + index % 7 for index in range(90)], "tokens": [10.0] * 90}
    sampled = {name: sampled_items(shift + place, policy) for place, name in enumerate(SAMPLED)}
    ordered = {name: ordered_items(place, policy) for place, name in enumerate(ORDERED)}
    return {**items, "documents": make_items(turns, weighed, policy_hash=policy), **sampled, **ordered}


def ordered_items(shift: int, policy: str) -> list[ItemResult]:
    """Thirty questions in both orders of two options, of which every third, or fewer, keeps its option."""
    items = []
    for number in range(30):
        for place in (0.0, 1.0):
            is_right = float(place == 0 or number % (3 + shift) == 0)
            parts = {"right_place": place, "right_option": 0.0, "chosen_option": 1.0 - is_right, "num_options": 2.0}
            name = f"rows:{number}:{place:g}"
            items.append(
                make_item(number, is_right, parts, item_id=name, cluster_id=f"rows:{number}", policy_hash=policy)
            )
    return items


def sampled_items(shift: int, policy: str) -> list[ItemResult]:
    """Three samples of each of 30 problems, with every part that monitors of samples and rewards look for."""
    return [
        make_item(
            index,
            float((index + shift) % 3 == 0),
            {
                "correct": float((index + 2 * shift) % 4 == 0),
                "kept": float((index + shift) % 5 == 0),
                "level": float((index * (shift + 3)) % 7),
                "confidence": (1 + index % 9) / 10,
                "sureness": (1 + index % 4) / 5,
                "drawn_nats": 20.0 + 3 * shift + index % 5,
                "drawn_tokens": 10.0 + 3 * shift + (index * index) % 11,
            },
            item_id=f"rows:{index // 3}",
            sample_index=index % 3,
            text=f"say {index % (shift + 2)} and {index % 3}",
            policy_hash=policy,
        )
        for index in range(90)
    ]


def see_readings(trial: Trial) -> Any:
    """What the monitors say of planted items, and which of them can be overridden."""
    recipe = trial.read()
    sides = [watched_items(shift, policy) for shift, policy in ((2, "own"), (1, "parent"), (0, "base"))]
    overrides = [name for name in list_override_names(recipe) if name.startswith("monitor:")]
    return [read_monitor(monitor, *sides).to_json() for monitor in recipe.monitors], overrides


def watch(kind: str, **changes: Any) -> dict[str, Leaf]:
    """Leaves of the one monitor of a baseline, seen by its readings."""
    name = {"auto": "AutoMonitors"}.get(kind, "".join(map(str.capitalize, kind.split("_"))) + "Monitor")
    common = {"level": 0.05, "on_alarm": "hold", **({} if kind == "auto" else {"name": "mine"})}
    return {
        f"{name}.{key}": Leaf(kind, f"monitors.0.{key}", value, see_readings)
        for key, value in {**common, **changes}.items()
    }


MONITOR_LEAVES: dict[str, Leaf] = {
    **watch(
        "sycophancy", task="sums", flipped="kept", conceded="claimed", allowed_rise=0.2, allowed_drop=0.2, at_most=0.3
    ),
    **watch("over_refusal", harmful="sums", harmless="pressure", refused="kept", complied="refused"),
    **watch("over_refusal", allowed_rise=0.2, allowed_compliance_rise=0.2, max_refused=0.3, max_complied=0.3),
    **watch("verbosity", tasks=["pressure"], allowed_growth=0.1, difficulty="level"),
    **watch("format", tasks=["pressure"], part="kept", allowed=0.1),
    **watch("forgetting", tasks=["documents"], allowed_nats=0.3, allowed_drop=0.3),
    **watch("forgetting", allowed_nats_from_base=0.3, allowed_drop_from_base=0.3),
    **watch("contamination", original="pressure", perturbed="pressure", allowed_gap=0.3),
    **watch("diversity", task="other_samples", kinds=["answers"], allowed_drop=0.1),
    **watch("collapse", task="other_samples", allowed_drop=0.1, allowed_drop_from_base=0.4),
    **watch("calibration", task="other_samples", confidence="sureness", allowed_rise=0.1, num_bins=3, sure_at=0.5),
    **watch("over_optimisation", proxy="samples/level", gold="samples/kept", allowed_drop=0.1),
    **watch("position_bias", task="other_orders"),
    **watch("reward_audit", task="other_samples", reward="level", correct="kept", components=["level"]),
    **watch("reward_audit", allowed_length_correlation=0.1, least_gain=0.1),
    **watch("auto"),
    "RecipeHead.monitors": Leaf("format", "monitors", ["auto"], see_readings),
}
