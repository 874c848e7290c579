"""Choosing the next token of every row: reproducible uniform numbers, and an inverse distribution in two levels.

A token is drawn by the inverse of the distribution function, in the order of ids: it is the first at which
the cumulative probability exceeds the row's uniform number. Instead of a cumulative sum over the vocabulary,
blocks of tokens are summed, the block is found in the cumulative sums of blocks (float64), and only that
block's weights are computed again and cumulated. On a CPU rows go through in tiles that stay in cache. What
a row draws depends on its own logits, uniform number, mask and nothing else, bit for bit.

Shape letters: B rows, R rows of a tile, V vocabulary, N blocks of a row, S tokens of a block, W words of 32
tokens, K most probable tokens. In a tile V counts the padding of the last block too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch

from posttrain.core.errors import SamplerError
from posttrain.core.sampling import SamplingSettings
from posttrain.kernels.truncation import LEAST_SCORE, Cuts, cut_scores, find_largest_tokens, sum_blocks, weigh

_BLOCK_TOKENS = 128
_WORD_TOKENS = 32
_BLOCK_WORDS = _BLOCK_TOKENS // _WORD_TOKENS
_TILE_ELEMENTS = 1 << 18  # 1 MiB of fp32; half as many where a pass needs more than one buffer
# More than what tokens below the least score weigh in sums of blocks, and less than any uniform number but 0.
LEAST_TARGET = 2.0**-60
_BELOW_ONE = 1 - 2.0**-53
LEAST_WEIGHT = math.exp(LEAST_SCORE + 1e-3)
_INVERSE_TEMPERATURES = (1e-30, 1e30)  # beyond them the draw is even, or greedy, and a product could be NaN

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST_FACTOR = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND_FACTOR = 0x94D049BB133111EB - (1 << 64)


def compute_uniforms(seeds_B: torch.Tensor, steps_B: torch.Tensor) -> torch.Tensor:
    """Return a uniform number for each pair of seed and step, the same on every device and beside any others.

    With `mix` the finaliser of splitmix64, in wrapping 64-bit arithmetic, and g its odd increment:
    u = (mix(mix(seed + g) + g (step + 1)) >> 11) / 2^53 (Steele et al. 2014, doi 10.1145/2660193.2660195;
    there the seed is not mixed first, which lets the streams of some seeds overlap).

    Args:
        seeds_B: int64, any values.
        steps_B: int64, any values; shapes are broadcast, so that [B, 1] and [1, T] give all steps of all rows.

    Returns:
        float64 in [0, 1), multiples of 2^-53.
    """
    mixed_B = _mix(seeds_B + _GOLDEN)
    mixed_B = _mix(mixed_B + (steps_B + 1) * _GOLDEN)
    return _shift_right(mixed_B, 11).double() * 2.0**-53


def _mix(words: torch.Tensor) -> torch.Tensor:
    words = (words ^ _shift_right(words, 30)) * _FIRST_FACTOR
    words = (words ^ _shift_right(words, 27)) * _SECOND_FACTOR
    return words ^ _shift_right(words, 31)


def _shift_right(words: torch.Tensor, count: int) -> torch.Tensor:
    """Shift as if unsigned: torch's own shift of int64 copies the sign."""
    return (words >> count) & ((1 << (64 - count)) - 1)


def pack_allowed(is_allowed_BV: torch.Tensor) -> torch.Tensor:
    """Return a bool mask as words [B, W]: token t is bit t % 32, lowest first, of word t // 32 of an int32 row."""
    missing = -is_allowed_BV.shape[1] % _WORD_TOKENS
    bits = torch.nn.functional.pad(is_allowed_BV, (0, missing)).unflatten(1, (-1, _WORD_TOKENS)).long()
    words = (bits << torch.arange(_WORD_TOKENS, device=bits.device)).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int()


@dataclass(frozen=True, slots=True)
class Drawn:
    """One token for each row.

    Made by `draw_tokens`, read by samplers. `ids_B` int64; log-probs in nats, fp32: `logprobs_B` under the full
    distribution of the logits as they came, at temperature 1; `drawing_logprobs_B` under the one drawn from, 0
    where greedy. Both are NaN in a row from which nothing can be drawn (see `check_drawn`), whose id means
    nothing. `top_ids_BK`, `top_logprobs_BK`: the most probable tokens under the full distribution, the lowest
    id of equals first; None where none are asked for, and K is at most V.

    Example: logits `[[0.0, ln 3]]` at temperature 0.5 have shares 1 and 9; uniform 0.5 draws
    `ids_B=[1]`, `logprobs_B=[ln 0.75]`, `drawing_logprobs_B=[ln 0.9]`.
    """

    ids_B: torch.Tensor
    logprobs_B: torch.Tensor
    drawing_logprobs_B: torch.Tensor
    top_ids_BK: torch.Tensor | None = None
    top_logprobs_BK: torch.Tensor | None = None


@torch.no_grad()
def draw_tokens(
    logits_BV: torch.Tensor,
    settings: SamplingSettings,
    uniforms_B: torch.Tensor | None,
    *,
    seen_BV: torch.Tensor | None = None,
    allowed_BW: torch.Tensor | None = None,
) -> Drawn:
    """Return one token for each row, drawn as the settings say, in the order of transformers' processors.

    Greedy drawing takes the lowest id of equals. Where a token weighs less than e^-87 of the largest weight it is
    never drawn. Nothing is read back from a GPU, so `check_drawn` is the caller's to call where it reads ids.

    Args:
        logits_BV: Any float type; computed in fp32, sums of blocks in float64.
        settings: Temperature, truncation, penalty and number of most probable tokens; of the constraint only
            `allowed_BW` is read.
        uniforms_B: float64 in [0, 1); not read at temperature 0, where None will do.
        seen_BV: bool, the tokens that `repetition_penalty` is for; needed where the settings have one.
        allowed_BW: int32 words as of `pack_allowed` and llguidance; None allows every token.

    Raises:
        ValueError: Something that the settings need was not given, or has another shape or type than it must.
    """
    is_penalised = settings.repetition_penalty not in (None, 1.0)
    if is_penalised and seen_BV is None:
        raise ValueError("a repetition penalty needs seen_BV")
    inputs = _Inputs(logits_BV, seen_BV if is_penalised else None, allowed_BW)
    inputs.check()
    scan = _scan_rows(inputs, settings)
    if settings.temperature == 0:
        blocks_B1 = scan.weights_BN.argmax(1, keepdim=True)
        local_B1 = _score_block(inputs, settings, scan, blocks_B1)[0].argmax(1, keepdim=True)
        drawing_logprobs_B1: torch.Tensor | None = scan.largest_B1 - scan.largest_B1  # 0, or NaN if not finite
    else:
        if uniforms_B is None or uniforms_B.dtype != torch.float64:
            raise ValueError("drawing above temperature 0 needs uniforms_B in float64")
        blocks_B1, local_B1, drawing_logprobs_B1 = _invert(inputs, settings, scan, uniforms_B[:, None])
    ids_B1 = blocks_B1.mul_(_BLOCK_TOKENS).add_(local_B1)
    if logits_BV.shape[1] % _BLOCK_TOKENS:
        ids_B1.clamp_(max=logits_BV.shape[1] - 1)
    log_totals_B1 = scan.raw_totals_B1.log()
    logprobs_B1 = (logits_BV.gather(1, ids_B1).double() - scan.raw_largest_B1 - log_totals_B1).float()
    if drawing_logprobs_B1 is None:
        drawing_logprobs_B1 = logprobs_B1
    top_logprobs_BK = None if scan.top_scores_BK is None else (scan.top_scores_BK - log_totals_B1).float()
    return Drawn(ids_B1[:, 0], logprobs_B1[:, 0], drawing_logprobs_B1[:, 0], scan.top_ids_BK, top_logprobs_BK)


def check_drawn(drawn: Drawn) -> None:
    """Raise if nothing could be drawn in some row.

    Raises:
        SamplerError: Logits are NaN or plus infinity, or all minus infinity; or a constraint allows no token
            that has any probability.
    """
    if not bool((drawn.logprobs_B + drawn.drawing_logprobs_B).isnan().any()):
        return
    broken = drawn.logprobs_B.isnan().nonzero().flatten().tolist()
    if broken:
        raise SamplerError(
            f"logits of {len(broken)} of {len(drawn.ids_B)} rows are no distribution (NaN or infinite)",
            expected="finite logits, of which at least one is above minus infinity",
            cure="look for the step at which training diverged, or compute in float32",
            place=f"row {broken[0]}",
        )
    empty = drawn.drawing_logprobs_B.isnan().nonzero().flatten().tolist()
    raise SamplerError(
        f"no token of positive probability is allowed in {len(empty)} of {len(drawn.ids_B)} rows",
        expected="at least one allowed token in each row",
        cure="loosen the constraint, or lower repetition_penalty",
        place=f"row {empty[0]}",
    )


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What decides the draw of some rows, over the whole vocabulary or over one block of each row."""

    logits_BV: torch.Tensor
    seen_BV: torch.Tensor | None
    allowed_BW: torch.Tensor | None

    def check(self) -> None:
        """Raise ValueError if the shapes do not belong together."""
        B, V = self.logits_BV.shape
        words = (B, -(-V // _WORD_TOKENS))
        if self.seen_BV is not None and self.seen_BV.shape != (B, V):
            raise ValueError(f"seen_BV has shape {tuple(self.seen_BV.shape)}, the logits {(B, V)}")
        if self.allowed_BW is not None and (self.allowed_BW.shape != words or self.allowed_BW.dtype != torch.int32):
            found = f"{self.allowed_BW.dtype} of shape {tuple(self.allowed_BW.shape)}"
            raise ValueError(f"allowed_BW is {found}, expected torch.int32 of shape {words}")

    @property
    def are_processed(self) -> bool:
        """Whether the logits are changed before the temperature."""
        return self.seen_BV is not None or self.allowed_BW is not None

    def take_rows(self, rows: slice) -> _Inputs:
        """Return the inputs of some rows (views)."""
        seen, allowed = self.seen_BV, self.allowed_BW
        return _Inputs(
            self.logits_BV[rows], None if seen is None else seen[rows], None if allowed is None else allowed[rows]
        )

    def take_blocks(self, blocks_B1: torch.Tensor, positions_BS: torch.Tensor) -> _Inputs:
        """Return one block of each row; past the vocabulary's end the last token stands again."""
        seen, allowed = self.seen_BV, self.allowed_BW
        if allowed is not None:
            words = blocks_B1 * _BLOCK_WORDS + torch.arange(_BLOCK_WORDS, device=blocks_B1.device)
            allowed = allowed.gather(1, words.clamp_(max=allowed.shape[1] - 1))
        V = self.logits_BV.shape[1]
        ids_BS = positions_BS.clamp(max=V - 1) if V % _BLOCK_TOKENS else positions_BS
        return _Inputs(self.logits_BV.gather(1, ids_BS), None if seen is None else seen.gather(1, ids_BS), allowed)

    def process(self, logits_BV: torch.Tensor, penalty: float | None) -> None:
        """Apply repetition penalty and constraint to fp32 logits in place."""
        if self.seen_BV is not None and penalty is not None:
            weaker = torch.minimum if penalty >= 1 else torch.maximum
            if logits_BV.device.type == "cpu":  # few are seen; finding them on a GPU would wait for it
                places = self.seen_BV.nonzero(as_tuple=True)
                seen_N = logits_BV[places]
                logits_BV[places] = weaker(seen_N / penalty, seen_N * penalty)
            else:
                penalised_BV = weaker(logits_BV / penalty, logits_BV * penalty)
                logits_BV.copy_(torch.where(self.seen_BV, penalised_BV, logits_BV))
        if self.allowed_BW is not None:
            logits_BV.add_(_unpack_allowed(self.allowed_BW)[:, : logits_BV.shape[1]])


def _unpack_allowed(allowed_BW: torch.Tensor) -> torch.Tensor:
    """Return 0 for allowed tokens and minus infinity for others, fp32 [B, 32 W]: one table row for every byte."""
    values = torch.arange(256, device=allowed_BW.device)[:, None] >> torch.arange(8, device=allowed_BW.device)
    table = torch.zeros(256, 8, device=allowed_BW.device).masked_fill_((values & 1) == 0, -math.inf)
    octets = allowed_BW.contiguous().view(torch.uint8).flatten().int()
    return table.index_select(0, octets).view(len(allowed_BW), allowed_BW.shape[1] * _WORD_TOKENS)


@dataclass(frozen=True, slots=True)
class _Scan:
    """What the passes over the vocabulary found of each row.

    `raw_largest_B1` and `raw_totals_B1` (float64, the sum of exp(logit - largest)) are of the logits as they came;
    `largest_B1` is of the processed ones. `weights_BN` holds each block's sum of weights to draw by, or where
    greedy its largest processed logit; `cuts` what was left out of it; `is_full` says that this is the full
    distribution at temperature 1.
    """

    raw_largest_B1: torch.Tensor
    raw_totals_B1: torch.Tensor
    largest_B1: torch.Tensor
    weights_BN: torch.Tensor
    is_full: bool
    cuts: Cuts | None = None
    top_ids_BK: torch.Tensor | None = None
    top_scores_BK: torch.Tensor | None = None


def _scan_rows(inputs: _Inputs, settings: SamplingSettings) -> _Scan:
    """Scan all rows, on a CPU tile by tile."""
    B, V = inputs.logits_BV.shape
    width = -(-V // _BLOCK_TOKENS) * _BLOCK_TOKENS
    is_scaled = settings.temperature not in (0, 1)
    is_cut = any(cut is not None for cut in (settings.top_k, settings.top_p, settings.min_p))
    num_buffers = 3 if is_cut or (is_scaled and not inputs.are_processed) else 1
    elements = _TILE_ELEMENTS if num_buffers == 1 and not inputs.are_processed else _TILE_ELEMENTS // 2
    tile_rows = min(B, max(1, elements // width)) if inputs.logits_BV.device.type == "cpu" else B
    buffers = inputs.logits_BV.new_empty((num_buffers, tile_rows, width), dtype=torch.float32)
    if tile_rows == B:
        return _scan_tile(inputs, settings, buffers)
    scans = []
    for start in range(0, B, tile_rows):
        rows = slice(start, min(start + tile_rows, B))
        scans.append(_scan_tile(inputs.take_rows(rows), settings, buffers[:, : rows.stop - rows.start]))
    return _join(scans)


def _join(scans: list[Any]) -> Any:
    """Return the record of all rows from those of tiles: of tensors, records, and what is the same in each."""
    if scans[0] is None or isinstance(scans[0], bool):
        return scans[0]
    if isinstance(scans[0], torch.Tensor):
        return torch.cat(scans)
    kind = type(scans[0])
    return kind(*(_join([getattr(scan, field.name) for scan in scans]) for field in fields(kind)))


def _scan_tile(inputs: _Inputs, settings: SamplingSettings, buffers: torch.Tensor) -> _Scan:
    """Scan the rows of one tile.

    Args:
        inputs: Those of the tile's rows.
        settings: How to draw.
        buffers: fp32 [1, R, N * S] if the scores are not read again once they are weighed, else [3, R, N * S].
    """
    scores_RV, weights_RV = buffers[0], buffers[min(1, len(buffers) - 1)]
    V = inputs.logits_BV.shape[1]
    is_greedy = settings.temperature == 0
    _read_logits(inputs, scores_RV)
    raw_largest_R1, maxima_RN = _find_largest(scores_RV, is_greedy)
    scores_RV.sub_(raw_largest_R1)
    top_ids, top_scores = None, None
    if settings.top_logprobs:
        top_ids, top_scores = find_largest_tokens(scores_RV, min(settings.top_logprobs, V), _BLOCK_TOKENS)
    sums_RN = sum_blocks(weigh(scores_RV, out=weights_RV), _BLOCK_TOKENS)
    totals_R1 = sums_RN.sum(1, keepdim=True, dtype=torch.float64)
    largest_R1, is_full, cuts = raw_largest_R1, not is_greedy, None
    if inputs.are_processed:
        _read_logits(inputs, scores_RV)
        inputs.process(scores_RV[:, :V], settings.repetition_penalty)
        largest_R1, maxima_RN = _find_largest(scores_RV, is_greedy)
        if not is_greedy:
            scores_RV.sub_(largest_R1)
    if maxima_RN is not None:
        sums_RN = maxima_RN
    else:
        if settings.temperature != 1:
            scores_RV.mul_(invert_temperature(settings))
        if settings.temperature != 1 or inputs.are_processed:
            sums_RN, is_full = sum_blocks(weigh(scores_RV, out=weights_RV), _BLOCK_TOKENS), False
        if len(buffers) > 1:
            sums_RN, cuts = cut_scores(buffers, V, sums_RN, settings)
    return _Scan(raw_largest_R1, totals_R1, largest_R1, sums_RN, is_full and cuts is None, cuts, top_ids, top_scores)


def _read_logits(inputs: _Inputs, scores_RV: torch.Tensor) -> None:
    V = inputs.logits_BV.shape[1]
    if scores_RV.shape[1] == V:
        scores_RV.copy_(inputs.logits_BV)
    else:
        scores_RV[:, V:] = -math.inf
        scores_RV[:, :V].copy_(inputs.logits_BV)


def _find_largest(scores_RV: torch.Tensor, with_blocks: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return each row's largest value [R, 1], and if asked for that of each block [R, N]."""
    if not with_blocks:
        return scores_RV.amax(1, keepdim=True), None
    maxima_RN = scores_RV.view(len(scores_RV), scores_RV.shape[1] // _BLOCK_TOKENS, _BLOCK_TOKENS).amax(-1)
    return maxima_RN.amax(1, keepdim=True), maxima_RN


def invert_temperature(settings: SamplingSettings) -> float:
    """Return what scores are multiplied by for a temperature above 0, within what fp32 holds."""
    least, most = _INVERSE_TEMPERATURES
    return min(max(1 / settings.temperature, least), most)


def _invert(
    inputs: _Inputs, settings: SamplingSettings, scan: _Scan, uniforms_B1: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return each row's block, the token's place in it, and its log-prob (None: that of the full distribution)."""
    cumulative_BN = scan.weights_BN.cumsum(1, dtype=torch.float64)
    totals_B1 = cumulative_BN[:, -1:]
    targets_B1 = (uniforms_B1 * totals_B1).clamp_(min=LEAST_TARGET)
    blocks_B1 = _find_first(cumulative_BN, targets_B1)
    before_B1 = cumulative_BN.gather(1, blocks_B1) - scan.weights_BN.gather(1, blocks_B1)
    scores_BS, weights_BS = _score_block(inputs, settings, scan, blocks_B1)
    cumulative_BS = weights_BS.cumsum(1, dtype=torch.float64)
    # Held between 0 and the block's total: rounding may neither run past its end nor reach what has no weight.
    rest_B1 = torch.minimum((targets_B1 - before_B1).clamp_(min=0), cumulative_BS[:, -1:] * _BELOW_ONE)
    local_B1 = _find_first(cumulative_BS, rest_B1)
    if scan.is_full:
        return blocks_B1, local_B1, None
    return blocks_B1, local_B1, (scores_BS.gather(1, local_B1) - totals_B1.log()).float()


def _find_first(cumulative_BN: torch.Tensor, targets_B1: torch.Tensor) -> torch.Tensor:
    """Return the first position at which cumulated weights exceed the target, which therefore has weight."""
    return torch.searchsorted(cumulative_BN, targets_B1, right=True).clamp_(max=cumulative_BN.shape[1] - 1)


def _score_block(
    inputs: _Inputs, settings: SamplingSettings, scan: _Scan, blocks_B1: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores and weights of one block of each row, by the arithmetic that scanned it.

    Scores are processed logits where greedy, else scaled ones below the largest.
    """
    V = inputs.logits_BV.shape[1]
    positions_BS = blocks_B1 * _BLOCK_TOKENS + torch.arange(_BLOCK_TOKENS, device=blocks_B1.device)
    block = inputs.take_blocks(blocks_B1, positions_BS)
    scores_BS = block.logits_BV.float()
    block.process(scores_BS, settings.repetition_penalty)
    if V % _BLOCK_TOKENS:
        scores_BS.masked_fill_(positions_BS >= V, -math.inf)
    if settings.temperature == 0:
        return scores_BS, scores_BS
    scores_BS.sub_(scan.largest_B1)
    if settings.temperature != 1:
        scores_BS.mul_(invert_temperature(settings))
    weights_BS = torch.threshold_(weigh(scores_BS, out=torch.empty_like(scores_BS)), LEAST_WEIGHT, 0.0)
    if scan.cuts is not None:
        weights_BS.masked_fill_(scan.cuts.find_left_out(scores_BS, blocks_B1), 0)
    return scores_BS, weights_BS
