"""What must not change an answer: who asked before, a trace, another policy, padding. To the bit, since nothing is random."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import ttnn
from torch import Tensor

from ..deviation import deviation
from ..device.executor import Pass, PI0ModelTTNN
from ..latency import untimed
from ..model.flow import schedule
from ..model.observation import Observation
from ..model.rtc import Guidance, make_guidance
from ..reference import PI0ModelTorch

Kind = Literal["", "deviation", "stale context", "trace", "repetition", "padding", "other policy", "chip"]


@dataclass(frozen=True)
class Behaviour:
    """One thing that was tried.

    Attributes:
        what: in words.
        kind: of the finding; empty where it is as it should be.
        detail: what was seen, in words.
        numbers: for the report.
    """

    what: str
    kind: Kind = ""
    detail: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One question to the model, of one row.

    Attributes:
        name: in words.
        observation: of one row.
        noise: (1, horizon, action_dim) float32.
        guidance: or None.
    """

    name: str
    observation: Observation
    noise: Tensor
    guidance: Guidance[Tensor] | None = None

    def ask(self, model: PI0ModelTTNN | PI0ModelTorch) -> Tensor:
        """Returns the chunk."""
        return model.sample_actions(self.observation, noise=self.noise, guidance=self.guidance)


def make_cases(observation: Observation, noise: Tensor) -> dict[str, Case]:
    """Returns the questions, by name; `given` first, and with it what differs from it in one thing.

    Args:
        observation: of one row.
        noise: (1, horizon, action_dim) float32.
    """
    given = Case("given", observation, noise)
    cases = [given, replace(given, name="other inputs", observation=_other(observation), noise=-noise)]
    real = observation.lang_masks[0].nonzero().flatten()
    if len(real) > 1:
        tokens = observation.lang_tokens.clone()
        # As many tokens, and so the same shapes: the context is the same but for what it holds.
        tokens[0, real] = tokens[0, real].flip(0)
        if torch.equal(tokens, observation.lang_tokens):
            tokens[0, real[0]] = (tokens[0, real[0]] + 1) % 2
        cases.append(replace(given, name="another prompt", observation=replace(observation, lang_tokens=tokens)))
    present = [number for number, mask in enumerate(observation.img_masks) if mask[0]]
    if present and (len(present) > 1 or len(real)):
        masks = [
            torch.zeros_like(mask) if number == present[-1] else mask
            for number, mask in enumerate(observation.img_masks)
        ]
        cases.append(replace(given, name="an absent camera", observation=replace(observation, img_masks=masks)))
    rows, horizon, width = noise.shape
    guidance = make_guidance(
        noise[0, : horizon - horizon // 4] * 0.5,
        (rows, horizon, width),
        widths=(width,),
        delay=min(3, horizon // 4),
        execution_horizon=horizon // 2,
        schedule="LINEAR",
        max_gain=10.0,
    )
    cases.append(replace(given, name="guidance", guidance=guidance))
    return {case.name: case for case in cases}


def _other(observation: Observation) -> Observation:
    return replace(observation, images=[-image.flip(3) for image in observation.images], state=-observation.state)


def answers(
    model: PI0ModelTTNN,
    twin: PI0ModelTorch,
    cases: Mapping[str, Case],
    *,
    limit: float,
    unlike: float,
    actions: int,
) -> Iterator[tuple[Behaviour, Tensor]]:
    """Yields for each case whether it is near enough to the twin, asked of a model that remembers nothing; and the answer.

    Args:
        model: on the board.
        twin: float32.
        cases: to ask.
        limit: of the relative RMSE of the given question.
        unlike: of the others', which nobody would ask.
        actions: so many of the dimensions of an action count.
    """
    for name, case in cases.items():
        model.forget()
        got = case.ask(model)
        measure = deviation(got[..., :actions], case.ask(twin)[..., :actions])
        most = limit if name == "given" else unlike
        detail = f"relative RMSE {measure.rel_rmse:.4f} of at most {most:.4f}"
        numbers = {"rel_rmse": measure.rel_rmse, "pcc": measure.pcc, "limit": most}
        yield Behaviour(f"{name}: chunk", "" if measure.within(most) else "deviation", detail, numbers), got


def in_turn(
    model: PI0ModelTTNN, cases: Mapping[str, Case], want: Mapping[str, Tensor], mode: str, *, is_brief: bool = False
) -> Behaviour:
    """Returns whether each case, asked again among the others, is answered to the bit as by a model asked nothing else.

    Args:
        model: that has been asked them, eager or traced.
        cases: to ask.
        want: the answers of a fresh model.
        mode: `eager` or `traced`, for people.
        is_brief: each comes twice only.
    """
    names = list(cases)
    pairs = [] if is_brief else [each for name in names[1:] for each in (names[0], name)]
    order = [*names, *pairs, *reversed(names)]
    what = f"{len(order)} questions in turn, {mode}: the answers of a model that was asked nothing else"
    former = ""
    for turn, name in enumerate(order):
        got = cases[name].ask(model)
        if not torch.equal(got, want[name]):
            same_as = [other for other in names if other != name and torch.equal(got, want[other])]
            # Eager calls have passed before traces are asked: what these keep is the trace's fault.
            kind: Kind = "trace" if mode == "traced" else "stale context" if same_as else "repetition"
            after = f"turn {turn + 1}, {name!r} after {former!r}" if former else f"turn {turn + 1}, {name!r}"
            seen = f"the answer to {same_as[0]!r}" if same_as else difference(got, want[name])
            return Behaviour(what, kind, f"{after}: {seen}", {"turns": turn + 1})
        former = name
    return Behaviour(what, numbers={"turns": len(order)})


def repeated(model: PI0ModelTTNN, cases: Sequence[Case], want: Tensor, count: int, mode: str) -> Behaviour:
    """Returns whether the first case is answered alike so many times, to the bit, the others asked in between.

    Args:
        model: eager or traced.
        cases: the first is compared.
        want: its answer.
        count: how often it is asked.
        mode: `eager` or `traced`, for people.
    """
    between = cases[1:]
    wrong: list[tuple[int, str]] = []
    for number in range(count):
        got = cases[0].ask(model)
        if not torch.equal(got, want):
            wrong.append((number + 1, difference(got, want)))
        # Every other time, so that two calls follow on each other as well.
        if between and number % 2:
            between[number // 2 % len(between)].ask(model)
    among = " among other inputs" if between else ""
    what = f"the same observation {count} times{among}, {mode}: bit for bit the same"
    numbers = {"repetitions": count, "differing": len(wrong)}
    if not wrong:
        return Behaviour(what, numbers=numbers)
    first, seen = wrong[0]
    kind: Kind = "trace" if mode == "traced" and len(wrong) == count else "repetition"
    return Behaviour(what, kind, f"{len(wrong)} of {count} differ, the first is number {first}: {seen}", numbers)


def on_every_chip(model: PI0ModelTTNN, case: Case, want: Tensor) -> Behaviour:
    """Returns whether each chip of a board answers as the first one, which alone computes single rows.

    Args:
        model: on several chips.
        case: to ask, without guidance.
        want: the first chip's answer.
    """
    chips = len(model.chips)
    one = case.observation
    rows = Observation(
        images=[image.expand(chips, -1, -1, -1) for image in one.images],
        img_masks=[mask.expand(chips) for mask in one.img_masks],
        lang_tokens=one.lang_tokens.expand(chips, -1),
        lang_masks=one.lang_masks.expand(chips, -1),
        state=one.state.expand(chips, -1),
    )
    got = model.sample_actions(rows, noise=case.noise.expand(chips, -1, -1))
    what = f"each of {chips} chips: the answer of the first"
    for number, row in enumerate(got):
        if not torch.equal(row, want[0]):
            return Behaviour(what, "chip", f"chip {number + 1}: {difference(row, want[0])}")
    return Behaviour(what)


def difference(got: Tensor, want: Tensor) -> str:
    """Returns how two tensors differ, in words."""
    differs = got != want
    largest = (got - want).abs().max().item()
    return f"{int(differs.sum())} of {want.numel()} values differ, by {largest:.3g} at most"


def padding(model: PI0ModelTTNN, case: Case, want: Tensor) -> Iterator[Behaviour]:
    """Yields whether what stands in the padding of tiles moves nothing, and whether each end of the prompt counts.

    Masks that are off by one show here to the bit, where a deviation would hide one key among hundreds.

    Args:
        model: on the board.
        case: to ask.
        want: its answer.
    """
    model.forget()
    row = _eager_row(model, case)
    # Whatever is in the padding of the prompt's last tile, and in rows of the suffix that are another token's or padding.
    for tensor, counting, axis in _padded(row, case, model):
        _soil(tensor, counting, axis)
    got = model._read(row.enqueue(untimed), untimed)
    model.forget()
    what = "padding moves nothing: masks hide all of it"
    if torch.equal(got, want):
        yield Behaviour(what)
    else:
        yield Behaviour(what, "padding", difference(got, want))
    real = case.observation.lang_masks[0].nonzero().flatten()
    for name, position in (("first", 0), ("last", -1)) if len(real) else ():
        tokens = case.observation.lang_tokens.clone()
        token = tokens[0, real[position]]
        tokens[0, real[position]] = token - 1 if token else token + 1
        changed = replace(case, observation=replace(case.observation, lang_tokens=tokens)).ask(model)
        model.forget()
        what = f"the {name} token of the prompt counts"
        if torch.equal(changed, want):
            yield Behaviour(what, "padding", "another token there gives the same chunk: a mask hides it")
        else:
            yield Behaviour(what)


def _eager_row(model: PI0ModelTTNN, case: Case) -> Pass:
    times = schedule(model.config.num_steps)
    return model.chips[0].upload(case.observation, case.noise, times, case.guidance, eager=True, stage=untimed)


def _padded(row: Pass, case: Case, model: PI0ModelTTNN) -> Iterator[tuple[ttnn.Tensor, slice, int]]:
    """Yields tensors on the chip that hold more than counts: what counts of them, and along which axis."""
    inputs, tokens, config = row.inputs, slice(int(case.observation.lang_masks[0].sum())), model.config
    yield inputs.noise, slice(config.state_tokens, config.suffix_tokens), 2
    if inputs.proprioception is not None:
        yield inputs.proprioception, slice(config.state_tokens), 2
    if inputs.prompt is not None and inputs.prompt.tokens is not None:
        yield inputs.prompt.tokens, tokens, 1
    elif row.context.language is not None:
        yield row.context.language, tokens, 2


def _soil(tensor: ttnn.Tensor, counting: slice, axis: int) -> None:
    value = ttnn.to_torch(tensor)
    first, end, _ = counting.indices(value.shape[axis])
    value.narrow(axis, 0, first).fill_(7)
    value.narrow(axis, end, value.shape[axis] - end).fill_(7)
    ttnn.copy_host_to_device_tensor(ttnn.from_torch(value, dtype=tensor.dtype, layout=tensor.layout), tensor)


def beside_another(
    model: PI0ModelTTNN,
    make_another: Callable[[], PI0ModelTTNN],
    cases: Mapping[str, Case],
    want: Mapping[str, Tensor],
) -> Behaviour:
    """Returns whether a second model of the same weights, loaded beside the first, answers alike, and leaves the first alone.

    Args:
        model: with its contexts and traces.
        make_another: loads the second.
        cases: to ask.
        want: their answers.
    """
    what = "a second policy on the board: both answer as before"
    # With traces: the first call is eager, the second captures, the third replays.
    rounds = 1 if model.chips[0].traces is None else 3
    for _ in range(rounds):
        for case in cases.values():
            case.ask(model)
    other = make_another()
    try:
        for _ in range(rounds):
            for name, case in cases.items():
                for which, each in (("the first", model), ("the second", other)):
                    got = case.ask(each)
                    if not torch.equal(got, want[name]):
                        return Behaviour(what, "other policy", f"{which}, {name!r}: {difference(got, want[name])}")
    finally:
        other.release()
    return Behaviour(what)
