"""The architectures that the installed transformers has; importing the first one takes much of a start."""

from __future__ import annotations

from typing import Any

from posttrain.core.collector import paused_collector


def find_configuration_class(model_type: object) -> Any | None:
    """Return the configuration class of a `model_type`, or None if transformers has no such architecture."""
    with paused_collector():
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        is_known = isinstance(model_type, str) and model_type in CONFIG_MAPPING
        return CONFIG_MAPPING[model_type] if is_known else None


def find_causal_model_class(configuration: Any) -> Any | None:
    """Return the causal language model of a configuration, or None if its architecture has none."""
    with paused_collector():
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

        return MODEL_FOR_CAUSAL_LM_MAPPING.get(type(configuration), None)


def find_scoring_model_class(configuration: Any) -> Any | None:
    """Return the model with a head of scores of a configuration (sequence classification), or None if there is none."""
    with paused_collector():
        from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

        return MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(configuration), None)
