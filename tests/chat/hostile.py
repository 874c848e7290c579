"""Templates that break a limit when a message tells them to."""

from __future__ import annotations

SPIN = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
EAT = "{{ (messages[0].content ~ '0123456789' * 100000) * 100000 }}"
FLOOD = "{{ '0123456789' * 300000 }}"
CONDITIONAL = f"""
{{%- set word = messages[0].content %}}
{{%- if word == 'spin' %}}{SPIN}{{% elif word == 'eat' %}}{EAT}{{% elif word == 'flood' %}}{FLOOD}{{% endif %}}
{{{{- word }}}}"""
