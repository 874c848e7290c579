"""Best-of-n as a study: what several scores choose among n answers, and where choosing harder stops to pay.

    R(d) = d (alpha - beta d),   d = sqrt(KL(best-of-n || policy)),   turns at d = alpha / (2 beta)

N answers to each problem are drawn once from the policy that the stage is given. Every proxy (a reward model, an
ensemble's worst member, a rule) chooses among 1, 2, 4, ..., N of them, and gold judges what it chose. The stage trains
nothing: the policy is passed on as it came, and the figures are a second artifact, with a page.

The over-optimisation monitor reads each proxy's series: an alarm says from which n the proxy is up while gold falls.

Source: Gao, Schulman and Hilton 2022 (arXiv 2210.10760); ensembles against it: Coste et al. (arXiv 2310.02743); the KL
of best-of-n: Beirami et al. (arXiv 2401.01879), here measured, ties included.

Not here: reinforcement against the proxies (`grpo` with a `learned` scorer and an audit), rows to train on
(`posttrain sample --best-of`), choosing in an evaluation (`select` of a task).

What goes wrong with it: problems that the reward models were trained on make their errors small; gold that shares a
proxy's fault shows no turn; a drop within the noise of the problems is not shown, so take several hundred.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from posttrain.core.config import Config, display_field
from posttrain.core.sampling import SamplingSettings
from posttrain.data.sources import DataSource

WayName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
RESERVED = ("gold", "random", "oracle", "majority")
"""Ways of choosing that every study has."""


class BestOfNConfig(Config):
    """Configuration of a study of best-of-n; every key changes its figures but `on_alarm`.

    `proxies` choose by their largest value, `verifiers` the first that they give 1.
    """

    type: Literal["best_of_n"] = "best_of_n"
    data: list[DataSource] = Field(min_length=1)
    n: int = Field(64, ge=4, le=4096, description="answers to each problem; curves go up to it")
    gold: str | dict[str, Any]
    proxies: dict[WayName, str | dict[str, Any]] = Field(min_length=1)
    verifiers: dict[WayName, str | dict[str, Any]] = Field(default_factory=dict)

    max_new_tokens: int = Field(256, ge=1)
    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, lt=1)
    top_k: int | None = Field(None, ge=1)
    min_p: float | None = Field(None, gt=0, lt=1)
    stop: list[str] = Field(default_factory=list)
    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    level: float = Field(0.01, gt=0, le=0.2, description="chance of a false alarm of one proxy, over all n together")
    allowed_drop: float = Field(0.0, ge=0, description="fall of gold that is no alarm, in gold's unit")
    on_alarm: Literal["note", "hold"] = display_field("note")

    @field_validator("n", mode="before")
    @classmethod
    def _check_n(cls, n: Any) -> Any:
        if isinstance(n, int) and n < 4:
            raise ValueError(f"the best of {n} has too few points for a curve: set 16 or more, 64 say")
        return n

    @model_validator(mode="after")
    def _check_ways(self) -> BestOfNConfig:
        if self.temperature == 0:
            raise ValueError("temperature 0 draws the same answer n times; set a temperature such as 1.0")
        names = [*self.proxies, *self.verifiers]
        for name in names:
            if name in RESERVED:
                raise ValueError(f"'{name}' is a way that every study has; call this one otherwise")
            if names.count(name) > 1:
                raise ValueError(f"'{name}' is a proxy and a verifier; give each a name of its own")
        for name, proxy in self.proxies.items():
            if _spell(proxy) == _spell(self.gold):
                raise ValueError(
                    f"the proxy '{name}' is gold itself, which cannot fall while it rises; leave it out: every study "
                    "has 'oracle', which chooses by gold"
                )
        if any(source.proportion is not None for source in self.data):
            raise ValueError("data: proportion belongs to training data; every problem is asked")
        return self

    @property
    def scorers(self) -> dict[tuple[str, ...], str | dict[str, Any]]:
        """Every scorer by its place in the stage: gold, then proxies and verifiers."""
        found: dict[tuple[str, ...], str | dict[str, Any]] = {("gold",): self.gold}
        for group, named in (("proxies", self.proxies), ("verifiers", self.verifiers)):
            found |= {(group, name): scorer for name, scorer in named.items()}
        return found

    @property
    def sampling(self) -> SamplingSettings:
        """How answers are drawn."""
        return SamplingSettings(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            num_samples=self.n,
            stop_strings=tuple(self.stop),
        )


def _spell(scorer: str | dict[str, Any]) -> dict[str, Any]:
    """Return a scorer as a mapping: the name of a type alone is one without keys."""
    return {"type": scorer} if isinstance(scorer, str) else scorer
